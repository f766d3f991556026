"""Low-rank updates of the denoiser: a pack's call is each run's own denoiser with W + B·A."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from harness.config import GuidanceConfig, UserError
from harness.guidance import lora
from harness.guidance.prior import Guidance
from harness.guidance.random_prior import make_prior
from harness.rng import Key
from harness.threads import torch_threads

KEYS = [Key("a red mug", seed) for seed in range(3)]
RANK = 2
LIKE = ("sd14", "sdxl", "if-i", "sd3")


@pytest.fixture(scope="module")
def priors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Guidance]:
    root = tmp_path_factory.mktemp("priors")
    return {like: load(make_prior(root / like, like, size="tiny", dtype="float32")) for like in LIKE}


def load(folder: Path) -> Guidance:
    config = GuidanceConfig.model_validate({"prior": str(folder), "dtype": "float32", "microbatch": 4})
    return Guidance.load(config, local_files_only=True)


def updates(g: Guidance, time: bool = True) -> dict[str, Tensor]:
    """Updates of all attention and of the embedding of t that do change something."""
    made = lora.fresh(KEYS, g.shapes.linears, RANK)
    made = {name: torch.randn(value.shape, generator=_seeded()) * 0.3 for name, value in made.items()}
    return made | ({lora.TIME: torch.randn(3, g.shapes.time, generator=_seeded())} if time else {})


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def inputs(g: Guidance) -> tuple[Tensor, Tensor, list[Tensor]]:
    x_t = torch.randn(3, *g.latent_shape, generator=_seeded())
    return x_t, torch.tensor([20, 500, 980]), [g.embed([""] * 3), g.embed(["a cup", "a bus", "a cup"])]


def merged(denoiser: nn.Module, own: dict[str, Tensor]) -> nn.Module:
    """A copy of the denoiser with one run's updates added to its weights."""
    made = copy.deepcopy(denoiser)
    for name, layer in made.named_modules():
        if f"{name}.down" in own:
            assert isinstance(layer, nn.Linear)
            del layer.weight
            weight = denoiser.get_submodule(name).weight
            layer.weight = weight + own[f"{name}.up"] @ own[f"{name}.down"]  # type: ignore[assignment]
    if lora.TIME in own:
        embed = getattr(made, "time_embedding", None) or made.time_text_embed
        embed.register_forward_hook(lambda layer, given, out: out + own[lora.TIME])  # type: ignore[operator]
    return made


@pytest.mark.parametrize("like", LIKE)
def test_a_packs_call_is_every_runs_own_denoiser(like: str, priors: dict[str, Guidance]) -> None:
    """In float64, the gradients in the updates, the conditions and x_t included."""
    g = priors[like]
    denoiser = copy.deepcopy(g.family.denoiser).double()
    x_t, t, conds = inputs(g)
    x_t, cond = x_t.double().requires_grad_(), conds[1].double().requires_grad_()
    learned = {name: value.double().requires_grad_() for name, value in updates(g).items()}
    weight = torch.randn(x_t.shape, generator=_seeded(), dtype=torch.float64)

    usual, g.family.denoiser = g.family.denoiser, denoiser
    try:
        with lora.attached(denoiser, list(learned)), lora.applied(learned):
            out = g.family.denoise(x_t, t, cond)
        leaves = [x_t, cond, *learned.values()]
        found = torch.autograd.grad((out * weight).sum(), leaves, allow_unused=True, materialize_grads=True)
        for r in range(3):
            g.family.denoiser = merged(denoiser, {name: value[r] for name, value in learned.items()})
            alone = g.family.denoise(x_t[r : r + 1], t[r : r + 1], cond[r : r + 1])
            assert_close(out[r], alone[0], atol=1e-10, rtol=1e-8)
            expected = torch.autograd.grad((alone[0] * weight[r]).sum(), leaves, allow_unused=True)
            for one, other in zip(found, expected, strict=True):
                # A layer whose output is dropped (the text side of SD 3's last block) learns nothing.
                assert_close(one[r], torch.zeros_like(one[r]) if other is None else other[r])
        assert sum(bool(each.any()) for each in found) >= 0.9 * len(found)
    finally:
        g.family.denoiser = usual


@pytest.mark.parametrize("like", LIKE)
def test_fresh_updates_change_nothing_and_others_do(like: str, priors: dict[str, Guidance]) -> None:
    g = priors[like]
    x_t, t, conds = inputs(g)
    usual = g.predict(x_t, t, *conds)
    for one, other in zip(usual, g.predict(x_t, t, *conds, updates=_fresh(g)), strict=True):
        assert torch.equal(one, other)
    changed = g.predict(x_t, t, *conds, updates=updates(g))
    assert all(not torch.isclose(a, b).all() for a, b in zip(usual, changed, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(usual, g.predict(x_t, t, *conds), strict=True))


def _fresh(g: Guidance) -> dict[str, Tensor]:
    return lora.fresh(KEYS, g.shapes.linears, RANK)


def test_fresh_updates_are_each_runs_own(priors: dict[str, Guidance]) -> None:
    shapes = priors["sd14"].shapes
    made = lora.fresh(KEYS, shapes.linears, RANK)
    solo = lora.fresh(KEYS[1:2], shapes.linears, RANK)
    for name, value in made.items():
        assert torch.equal(value[1:2], solo[name])
        out, width = shapes.linears[name.rpartition(".")[0]]
        if name.endswith(".down"):
            assert value.shape == (3, RANK, width) and value.abs().max() <= width**-0.5
            assert not torch.equal(value[0], value[1])
        else:
            assert value.shape == (3, out, RANK) and not value.any()
    every = {name.rpartition(".")[0] for name in made}
    assert {name for name in shapes.linears if ".attn" in name} == every
    with pytest.raises(UserError, match="no linear layer of this denoiser matches nothing"):
        lora.fresh(KEYS, shapes.linears, RANK, "nothing")


@pytest.mark.parametrize("like", ["sd14", "sd3"])
def test_a_runs_bits_depend_neither_on_its_pack_nor_on_threads(
    like: str, priors: dict[str, Guidance]
) -> None:
    g = priors[like]
    x_t, t, conds = inputs(g)
    whole = {name: value.requires_grad_() for name, value in updates(g).items()}

    def predicted(rows: list[int]) -> tuple[list[Tensor], list[Tensor]]:
        own = {name: value.detach()[rows].requires_grad_() for name, value in whole.items()}
        given = [cond[rows].requires_grad_() for cond in conds]
        out = g.predict(x_t[rows], t[rows], *given, updates=own, grad=True)
        loss = sum((each.square().sum((1, 2, 3)) for each in out), torch.zeros(len(rows)))
        leaves = [*own.values(), *given]
        grads = torch.autograd.grad(loss.sum(), leaves, allow_unused=True, materialize_grads=True)
        return [each.detach() for each in out], list(grads)

    seen = []
    for threads in (1, 2):
        with torch_threads(threads):
            seen.append(predicted([0, 1, 2]))
            for rows in ([1], [2, 0]):
                for packed, alone in zip(seen[0], predicted(rows), strict=True):
                    for a, b in zip(packed, alone, strict=True):
                        assert torch.equal(a[rows], b)
    assert all(
        torch.equal(a, b) for one, other in zip(*seen, strict=True) for a, b in zip(one, other, strict=True)
    )
    without = g.predict(x_t, t, *conds, updates=whole)
    assert all(torch.equal(a, b) and not b.requires_grad for a, b in zip(seen[0][0], without, strict=True))


def test_gradients_through_the_prior_are_those_of_its_own_modules(priors: dict[str, Guidance]) -> None:
    """x_t, a condition that is learned, and the decoder."""
    g = priors["sd14"]
    x_t, t, conds = inputs(g)
    x_t, cond = x_t.requires_grad_(), conds[1].requires_grad_()
    (eps,) = g.predict(x_t, t, cond, grad=True)
    found = torch.autograd.grad(eps.square().sum(), [x_t, cond])
    plain = g.family.denoiser(x_t, t, encoder_hidden_states=cond).sample
    for one, other in zip(found, torch.autograd.grad(plain.square().sum(), [x_t, cond]), strict=True):
        assert_close(one, other, atol=1e-5, rtol=1e-4)
    images = g.decode(x_t)
    (found_x,) = torch.autograd.grad(images.square().sum(), [x_t])
    own = (g.family.decode(x_t) / 2 + 0.5).clamp(0, 1)
    assert_close(found_x, torch.autograd.grad(own.square().sum(), [x_t])[0], atol=1e-5, rtol=1e-4)
    assert not g.decode(x_t.detach()).requires_grad


def test_updates_of_nothing_are_told(priors: dict[str, Guidance]) -> None:
    g = priors["sd14"]
    x_t, t, conds = inputs(g)
    name = next(iter(lora.fresh(KEYS, g.shapes.linears, RANK))).removesuffix(".down")
    for wrong in ({f"{name}x.down": x_t, f"{name}x.up": x_t}, {f"{name}.down": x_t}):
        with pytest.raises(UserError, match=r"lora: no linear layer '.*' with .down and .up"):
            g.predict(x_t, t, *conds, updates=wrong)
    assert not any(layer._forward_hooks for layer in g.family.denoiser.modules())
