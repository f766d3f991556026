"""Adam over a pack is torch's Adam on each run, bit for bit whatever the pack."""

import pytest
import torch
from torch.testing import assert_close

from harness.config import OptimConfig
from harness.distill.optim import Adam
from harness.threads import torch_threads

CFG = OptimConfig(lr=1e-2, betas=(0.9, 0.99), eps=1e-15)


def pack(runs: int, size: int) -> dict[str, torch.Tensor]:
    return {"table": torch.randn(runs, size, 2), "bias": torch.randn(runs, 5)}


def gradients(params: dict[str, torch.Tensor], step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    grads = {name: torch.randn(value.shape, generator=generator) for name, value in params.items()}
    grads["table"][:, ::3] = 0.0  # hash entries that no ray has met
    return grads


def test_equals_torchs_adam() -> None:
    params = pack(3, 50)
    references = [
        {name: value[r].clone().requires_grad_() for name, value in params.items()} for r in range(3)
    ]
    optimisers = [
        torch.optim.Adam(reference.values(), lr=CFG.lr, betas=CFG.betas, eps=CFG.eps)
        for reference in references
    ]
    ours = Adam(CFG, params)
    for step in range(1, 6):
        grads = gradients(params, step)
        ours.update(params, grads, torch.full((3,), step))
        for r, (reference, optimiser) in enumerate(zip(references, optimisers, strict=True)):
            for name, value in reference.items():
                value.grad = grads[name][r].clone()
            optimiser.step()
            for name, value in reference.items():
                assert_close(params[name][r], value.detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("size", [1, 37, 4099, 40_003])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_runs_bits_do_not_depend_on_the_pack_nor_on_the_others_steps(size: int, threads: int) -> None:
    with torch_threads(threads):
        params = pack(5, size)
        alone = {name: value[3:4].clone() for name, value in params.items()}
        ours, solo = Adam(CFG, params), Adam(CFG, alone)
        for step in range(1, 5):
            grads = gradients(params, step)
            ours.update(params, grads, torch.tensor([step + 90, 7 + step, step, step, 300 + step]))
            solo.update(
                alone, {name: value[3:4].clone() for name, value in grads.items()}, torch.tensor([step])
            )
        for name, value in alone.items():
            assert torch.equal(params[name][3:4], value)


def test_a_gradient_of_another_memory_order_is_the_same_gradient() -> None:
    params = {"w": torch.randn(2, 6, 8)}
    gradient = torch.randn(2, 8, 6).transpose(1, 2)
    updated = []
    for given in (gradient, gradient.contiguous()):
        mine = {"w": params["w"].clone()}
        Adam(CFG, mine).update(mine, {"w": given}, torch.tensor([1, 1]))
        updated.append(mine["w"])
    assert torch.equal(*updated)
