"""What a method is given: nothing computed before it is asked for, every number as its definition says."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from harness.check.runs import content
from harness.config import GuidanceConfig
from harness.distill.context import GradientContext
from harness.distill.contract import MethodError
from harness.distill.step import step
from harness.guidance.prior import Guidance
from harness.guidance.random_prior import make_prior
from harness.records.folder import RunFolder
from harness.rng import Key
from harness.scene.cameras import make, rays
from harness.scene.contract import View
from harness.threads import torch_threads
from tests import tinyruns

KEYS = [Key("a red mug", 0), Key("a bus", 1), Key("a red mug", 2)]
T = [20, 500, 980]


def load(folder: Path) -> Guidance:
    config = GuidanceConfig.model_validate({"prior": str(folder), "dtype": "float32", "microbatch": 4})
    return Guidance.load(config, local_files_only=True)


@pytest.fixture(scope="module")
def prior(tiny_prior: Path) -> Guidance:
    return load(tiny_prior)


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Guidance:
    folder = tmp_path_factory.mktemp("flow") / "sd3"
    return load(make_prior(folder, "sd3", size="tiny", dtype="float32"))


def context(
    prior: Guidance,
    rows: tuple[int, ...] = (0, 1, 2),
    i: int = 5,
    azimuths: tuple[float, ...] = (20.0, 30.0, 40.0),
    views: tuple[str, ...] = ("front", "front", "front"),
) -> GradientContext:
    x = torch.randn(3, *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    view = View(
        x[list(rows)].requires_grad_() * 1.0,
        torch.rand(len(rows), 4, 4),
        penalties_R={"entropy": torch.ones(len(rows))},
    )
    others = ([value + 10.0 * r for r in rows] for value in (15.0, 2.0, 40.0))
    cameras = make([azimuths[r] for r in rows], *others)
    steps = torch.full((len(rows),), i)
    keys = [KEYS[r] for r in rows]
    t = torch.tensor(T)[list(rows)]
    return GradientContext(prior, keys, steps, steps * 4, t, view, cameras, [views[r] for r in rows])


@pytest.fixture
def calls(prior: Guidance, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The samples of every call of the prior's denoiser, as they come."""
    seen: list[int] = []
    denoise = prior.predict
    monkeypatch.setattr(
        prior, "predict", lambda x, t, *c, **k: seen.append(len(x) * len(c)) or denoise(x, t, *c, **k)
    )
    return seen


def test_nothing_is_called_before_it_is_asked_for_and_nothing_twice(
    prior: Guidance, calls: list[int]
) -> None:
    ctx = context(prior)
    ctx.add_noise(ctx.x_RCHW, ctx.normal("mine"), 300)
    _ = ctx.x_t_RCHW, ctx.cond_RLD, ctx.suffixed(", sharp"), ctx.c2w_R44, ctx.progress_R
    assert calls == [] and ctx.nfe_R.tolist() == [0, 0, 0]
    _ = ctx.eps_cond_RCHW, ctx.eps_RCHW, ctx.eps_uncond_RCHW
    assert calls == [6] and ctx.nfe_R.tolist() == [2, 2, 2]
    ctx.predict(ctx.x_t_RCHW, 40, ctx.empty_RLD, ctx.cond_RLD, ctx.embed("ugly"))
    assert calls == [6, 9] and ctx.nfe_R.tolist() == [5, 5, 5]
    ctx.predict(ctx.x_t_RCHW, 40, ctx.empty_RLD, only_R=torch.tensor([True, False, True]))
    assert calls == [6, 9, 2] and ctx.nfe_R.tolist() == [6, 5, 6]
    ctx.predict(ctx.x_t_RCHW, 40, ctx.empty_RLD, only_R=torch.zeros(3, dtype=torch.bool))
    assert calls == [6, 9, 2] and ctx.nfe_R.tolist() == [6, 5, 6]


def test_the_usual_call_is_the_priors_own(prior: Guidance) -> None:
    ctx = context(prior)
    t = torch.tensor(T)
    alpha = prior.alphas_cumprod_T[t][:, None, None, None]
    assert_close(ctx.x_t_RCHW, alpha.sqrt() * ctx.x_RCHW + (1 - alpha).sqrt() * ctx.noise_RCHW)
    assert torch.equal(ctx.x_t_RCHW, prior.add_noise(ctx.x_RCHW, ctx.noise_RCHW, t))
    cond = prior.embed([f"{key.prompt}, front view" for key in KEYS])
    uncond, with_prompt = prior.predict_noise(ctx.x_t_RCHW, t, cond)
    assert torch.equal(ctx.eps_uncond_RCHW, uncond) and torch.equal(ctx.eps_cond_RCHW, with_prompt)
    assert torch.equal(ctx.eps_RCHW, prior.cfg_noise(uncond, with_prompt))
    assert_close(ctx.cfg(uncond, with_prompt, 3.0), 3 * with_prompt - 2 * uncond, atol=1e-5, rtol=0)


def test_conditions(prior: Guidance) -> None:
    ctx = context(prior)
    assert torch.equal(ctx.plain_RLD, prior.embed([key.prompt for key in KEYS]))
    assert torch.equal(ctx.empty_RLD, prior.embed([""] * 3))
    assert torch.equal(ctx.embed("ugly"), prior.embed(["ugly"] * 3))
    assert torch.equal(ctx.suffixed(", sharp"), prior.embed([f"{p}, sharp" for p in ctx.view_prompts]))
    assert torch.equal(ctx.of_view("back"), prior.embed([f"{key.prompt}, back view" for key in KEYS]))


@pytest.mark.parametrize("threads", [1, 2])
def test_branches_and_runs_do_not_change_a_samples_bits(prior: Guidance, threads: int) -> None:
    with torch_threads(threads):
        _same_bits(prior)


def _same_bits(prior: Guidance) -> None:
    ctx = context(prior)
    x, conds = ctx.x_t_RCHW, (ctx.empty_RLD, ctx.cond_RLD, ctx.embed("ugly"))
    together = ctx.predict(x, ctx.t_R, *conds)
    for cond, eps in zip(conds, together, strict=True):
        assert torch.equal(ctx.predict(x, ctx.t_R, cond), eps)
    only = torch.tensor([False, True, True])
    some = ctx.predict(x, ctx.t_R, *conds, only_R=only)
    for eps, whole in zip(some, together, strict=True):
        assert torch.equal(eps[only], whole[only]) and not eps[~only].any()
    solo = context(prior, (2,))
    assert torch.equal(solo.eps_RCHW[0], ctx.eps_RCHW[2])


def modified(prior: Guidance, **changes: Any) -> Guidance:
    """The same prior under other settings."""
    other = copy.copy(prior)
    other.cfg = prior.cfg.model_copy(update=changes)
    return other


def test_a_negative_prompt_takes_no_prompts_place(prior: Guidance) -> None:
    ctx = context(modified(prior, negative="ugly"))
    ugly = ctx.predict(ctx.x_t_RCHW, ctx.t_R, ctx.embed("ugly"))
    assert torch.equal(ctx.eps_uncond_RCHW, ugly)
    assert torch.equal(ctx.eps_RCHW, ugly + 20 * (ctx.eps_cond_RCHW - ugly))
    assert torch.equal(ctx.guided(ctx.x_t_RCHW, ctx.t_R), ctx.eps_RCHW)
    assert torch.equal(ctx.empty_RLD, context(prior).empty_RLD)


def test_the_rescale_is_lins(prior: Guidance) -> None:
    ctx = context(modified(prior, rescale=0.7))
    for r, (uncond, cond) in enumerate(zip(ctx.eps_uncond_RCHW, ctx.eps_cond_RCHW, strict=True)):
        eps = (uncond + 20 * (cond - uncond)).double()
        told = 0.7 * eps * cond.double().std() / eps.std() + 0.3 * eps
        assert_close(ctx.eps_RCHW[r].double(), told, atol=1e-5, rtol=1e-5)


def test_perp_neg_is_the_papers(prior: Guidance) -> None:
    """At the azimuths 20, 120 and from overhead; four evaluations, and no run sees another."""
    changed = modified(prior, perp_neg=0.5)
    ctx = context(changed, azimuths=(20.0, -120.0, 0.0), views=("front", "side", "overhead"))
    f = torch.tensor([2 / 9, 1 / 3], dtype=torch.float64)
    weights = [
        [2.426 - 4 * torch.exp(-0.5 * (1 - f[0])), 2.426 - 4 * torch.exp(-0.5 * f[0])],
        [0.606 - torch.exp(-0.5 * (1 - f[1])), -0.967 - torch.exp(-0.5 * (1 - f[1]))],
        [0.0, 0.0],
    ]
    share = [(7 / 9, "front", "side"), (2 / 3, "side", "back"), (1.0, "overhead", "back")]
    against = [("front", "side"), ("side", "front"), ("side", "side")]
    found = ctx.eps_RCHW
    assert ctx.nfe_R.tolist() == [4, 4, 4]
    for r in range(3):
        own = context(prior, (r,))
        own_x, t = ctx.x_t_RCHW[r : r + 1], own.t_R
        part, near, far = share[r]
        mixed = part * own.of_view(near) + (1 - part) * own.of_view(far)
        none, y, *others = (
            own.predict(own_x, t, each).double()
            for each in (own.empty_RLD, mixed, *map(own.of_view, against[r]))
        )
        along = y - none
        told = none + 20 * along
        for other, weight in zip(others, weights[r], strict=True):
            side = other - none
            told = told + 20 * 0.5 * weight * (side - (side * along).sum() / (along * along).sum() * along)
        assert_close(found[r].double(), told[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
def test_modifiers_do_not_look_at_other_runs(prior: Guidance, threads: int) -> None:
    changed = modified(prior, perp_neg=1.0, rescale=0.5, negative="ugly")
    with torch_threads(threads):
        whole, solo = context(changed), context(changed, (2,))
        assert torch.equal(solo.eps_RCHW[0], whole.eps_RCHW[2])
        only = torch.tensor([False, False, True])
        some = whole.guided(whole.x_t_RCHW, whole.t_R, only_R=only)
        assert torch.equal(some[2], whole.eps_RCHW[2]) and whole.nfe_R.tolist() == [4, 4, 8]


@given(st.integers(0, 999), st.integers(1, 1000), st.sampled_from([0.0, 0.3, 1.0]))
def test_a_hop_down_is_ddims(prior: Guidance, start: int, steps: int, eta: float) -> None:
    ctx = context(prior, (0,))
    scheduler = DDIMScheduler(trained_betas=_betas(prior), clip_sample=False)
    scheduler.set_timesteps(steps)
    noise = ctx.normal("ddim")
    end = max(start - 1000 // steps, -1)
    found = ctx.ddim(ctx.x_t_RCHW, ctx.noise_RCHW, start, end, eta, noise)
    told: Any = scheduler.step(ctx.noise_RCHW, start, ctx.x_t_RCHW, eta=eta, variance_noise=noise)
    assert_close(found, told.prev_sample, atol=2e-4, rtol=1e-3)


def _betas(prior: Guidance) -> Any:
    alphas = prior.alphas_cumprod_T.double().numpy()
    return 1 - alphas / torch.cat([torch.ones(1), prior.alphas_cumprod_T[:-1]]).double().numpy()


@given(st.integers(-1, 999), st.integers(0, 999))
def test_noise_levels_fit_together(prior: Guidance, low: int, high: int) -> None:
    ctx = context(prior)
    x, noise = ctx.x_RCHW, ctx.noise_RCHW
    x_t = ctx.add_noise(x, noise, high)
    assert_close(ctx.clean(x_t, noise, high), x, atol=1e-3, rtol=1e-3)
    assert_close(ctx.ddim(x_t, noise, high, low), ctx.add_noise(x, noise, low), atol=1e-3, rtol=1e-3)
    assert torch.equal(ctx.add_noise(x, noise, -1), x)
    sigma = ctx.flow_sigma(high)
    x_s = (1 - sigma) * x + sigma * noise
    n = ((1 - sigma) ** 2 + sigma**2).sqrt()
    assert_close(x_s / n, x_t, atol=1e-4, rtol=1e-4)
    v = ctx.velocity(x_t, noise, high)
    assert_close(v, noise - x, atol=1e-3, rtol=1e-3)
    assert_close(ctx.noise_of_velocity(x_t, v, high), noise, atol=1e-4, rtol=1e-4)


def test_a_flows_quantities_are_its_own(flow: Guidance) -> None:
    ctx = context(flow)
    sigma_T = flow.family.parts.scheduler.sigmas.sort().values
    sigma = ctx.flow_sigma(ctx.t_R)
    assert_close(sigma.flatten(), sigma_T[ctx.t_R], atol=1e-5, rtol=1e-5)
    eps = ctx.eps_cond_RCHW
    x_s = (1 - sigma) * ctx.x_RCHW + sigma * ctx.noise_RCHW
    v = flow.family.denoise(x_s, ctx.t_R, ctx.cond_RLD)
    assert_close(ctx.velocity(ctx.x_t_RCHW, eps, ctx.t_R), v, atol=1e-3, rtol=1e-3)
    # Euler's step of the flow's own equation is DDIM's hop.
    to = torch.tensor([10, 300, 700])
    sigma_to = ctx.flow_sigma(to)
    n_to = ((1 - sigma_to) ** 2 + sigma_to**2).sqrt()
    hop = ctx.ddim(ctx.x_t_RCHW, eps, ctx.t_R, to)
    assert_close(n_to * hop, x_s + (sigma_to - sigma) * v, atol=1e-3, rtol=1e-3)


def test_draws_are_each_runs_own(prior: Guidance) -> None:
    ctx, later = context(prior), context(prior, i=6)
    a = ctx.normal("a")
    assert a.shape == ctx.x_RCHW.shape and ctx.uniform("a", (3,)).shape == (3, 3)
    assert torch.equal(a, ctx.normal("a")) and torch.equal(context(prior, (1,)).normal("a")[0], a[1])
    others = [ctx.normal("b"), later.normal("a"), ctx.noise_RCHW, ctx.normal("a", fixed=True), a.roll(1, 0)]
    assert all(not torch.isclose(a, other).any(dim=0).all() for other in others)
    assert torch.equal(ctx.normal("a", fixed=True), later.normal("a", fixed=True))


def test_the_camera_sees_along_its_poses_axis(prior: Guidance) -> None:
    ctx = context(prior)
    origins, directions = rays(ctx.cameras.map(lambda v: v.double()), 5, 5)
    pose = ctx.c2w_R44
    assert_close(pose[:, :3, 3], origins[:, 0])
    assert_close(-pose[:, :3, 2], directions[:, 12])
    assert_close(pose[:, :3, :3] @ pose[:, :3, :3].mT, torch.eye(3).expand(3, 3, 3), atol=1e-6, rtol=0)
    across = directions[:, 14] - directions[:, 10]
    assert_close(across / across.norm(dim=1, keepdim=True), pose[:, :3, 0], atol=1e-5, rtol=0)


WRONG: dict[str, tuple[Callable[[GradientContext], object], str]] = {
    "t": (lambda c: c.add_noise(c.x_RCHW, c.noise_RCHW, 1000), r"t = \[1000, 1000, 1000\] is outside −1…999"),
    "float t": (lambda c: c.levels(c.t_R / 2), r"t is float32 \[3\] on cpu, and must be int64 \[3\] on cpu"),
    "x_t": (lambda c: c.predict(c.x_RCHW[:2], 5, c.cond_RLD), r"predict's x_t is float32 \[2, 4, 8, 8\]"),
    "condition": (lambda c: c.predict(c.x_RCHW, 5, c.cond_RLD[:1]), "predict's condition is float32"),
    "noise": (lambda c: c.ddim(c.x_RCHW, c.x_RCHW, 9, 3, 1.0), "ddim with eta > 0 takes noise"),
    "map": (lambda c: c.map("opacitty"), "this scene has no map 'opacitty'; did you mean 'opacity'"),
    "loss": (lambda c: c.add_loss(c.x_RCHW), r"add_loss's value is float32 \[3, 4, 8, 8\]"),
    "dead loss": (lambda c: c.add_loss(c.x_RCHW.sum((1, 2, 3))), "without a graph: begin with"),
    "log": (lambda c: c.log("opacity", c.progress_R), "the name opacity is taken"),
    "log nfe": (lambda c: c.log("nfe", c.progress_R), "the name nfe is taken"),
    "log loss": (lambda c: c.log("loss_entropy", c.progress_R), "the name loss_entropy is taken"),
    "log shape": (lambda c: c.log("size", c.x_RCHW), r"log's size is float32 \[3, 4, 8, 8\]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_asked_wrongly_is_told(name: str, prior: Guidance) -> None:
    call, reason = WRONG[name]
    with pytest.raises(MethodError, match=reason):
        call(context(prior))


PIXELS = '''"""Two: half of the gradient comes from a loss on the render, and something is logged."""
import torch
from harness.distill.method import GradientContext, Method


class Two(Method):
    nfe = 0

    def gradient(self, ctx: GradientContext):
        target = ctx.normal("target", fixed=True)
        ctx.add_loss((0.25 * (ctx.render_RCHW - target) ** 2).sum((1, 2, 3)))
        ctx.log("gap", (ctx.x_RCHW - target).abs().amax((1, 2, 3)))
        return 0.5 * (ctx.x_RCHW - target)
'''


def test_a_methods_own_loss_is_added_and_what_it_logs_is_written(tiny_prior: Path, tmp_path: Path) -> None:
    """The image is drawn to a fixed target, without a call of the denoiser."""
    (tmp_path / "methods" / "two").mkdir(parents=True)
    (tmp_path / "methods" / "two" / "method.py").write_text(PIXELS)
    dirs = (str(tmp_path / "methods"),)
    image = {
        "scene": {"kind": "image", "resolution": tinyruns.LATENT},
        "views": {"count": 1, "azimuths": 1, "heldout_elevation": None},
    }
    ids = tinyruns.create(tmp_path / "runs", tiny_prior, "two", 2, [tmp_path / "methods"], **image)
    tinyruns.run(tmp_path / "runs", ids, methods_dirs=dirs)
    for run in ids:
        rows = content(RunFolder(tmp_path / "runs" / run))["rows"]
        gaps = [row["gap"] for row in rows]
        assert all(row["nfe"] == 0 for row in rows) and gaps == sorted(gaps, reverse=True)
        assert gaps[0] > gaps[-1] > 0


def test_a_loss_on_the_render_is_the_gradient_that_it_means(tiny_prior: Path) -> None:
    from harness.bench import make_pack
    from harness.distill.assemble import make_method

    config = tinyruns.config(tiny_prior)
    prior, seen = load(tiny_prior), {}
    for how in ("gradient", "loss"):
        method = make_method(config, prior, "uniform_sds", {})

        def gradient(ctx: GradientContext, how: str = how) -> Tensor:
            target = ctx.normal("target")
            if how == "gradient":
                return ctx.x_RCHW - target
            ctx.add_loss((0.5 * (ctx.render_RCHW - target) ** 2).sum((1, 2, 3)))
            return torch.zeros_like(target)

        method.gradient = gradient
        pack = make_pack(config, prior, 2, "torch", method)
        step(pack)
        seen[how] = pack.adam.first
        assert pack.nfe_R.tolist() == [0, 0]
    for name, value in seen["gradient"].items():
        assert_close(seen["loss"][name], value, atol=1e-6, rtol=1e-4)


def test_runs_with_every_modifier_are_the_same_packed_and_alone(tiny_prior: Path, tmp_path: Path) -> None:
    config = tinyruns.config(tiny_prior)
    guidance = config.guidance.model_copy(update={"perp_neg": 1.0, "negative": "ugly", "rescale": 0.5})
    optim = config.optim.model_copy(update={"clip_norm": 5.0, "clip_pixel": 0.5})
    changes: dict[str, Any] = {"guidance": guidance.model_dump(), "optim": optim.model_dump()}
    roots = [tmp_path / "packed", tmp_path / "alone"]
    ids, _ = (tinyruns.create(root, tiny_prior, "uniform_sds", 2, (), **changes) for root in roots)
    tinyruns.run(tmp_path / "packed", ids)
    for run in ids:
        tinyruns.run(tmp_path / "alone", [run])
        packed = content(RunFolder(tmp_path / "packed" / run))
        assert packed == content(RunFolder(tmp_path / "alone" / run))
        assert packed["status"] == "done" and packed["rows"][-1]["nfe"] == 4 * tinyruns.STEPS
