"""The step's own arithmetic: what is computed for a run does not depend on the runs beside it."""

import pytest
import torch

from harness.config import OptimConfig
from harness.distill.step import clipped, per_run_norm
from harness.threads import torch_threads


@pytest.mark.parametrize("threads", [1, 2])
def test_norms_do_not_depend_on_the_pack(threads: int) -> None:
    with torch_threads(threads):
        generator = torch.Generator().manual_seed(0)
        shapes = ((4,), (7, 5), (33,), (1000, 3), (70_001, 2))
        for _ in range(20):
            tensors = [torch.randn(6, *shape, generator=generator) for shape in shapes]
            whole = per_run_norm(tensors)
            for rows in ([0], [5], [2, 4], [5, 3, 1]):
                assert torch.equal(per_run_norm([tensor[rows] for tensor in tensors]), whole[rows])
        exact = torch.cat([tensor.flatten(1).double() for tensor in tensors], 1).norm(dim=1)
        torch.testing.assert_close(whole.double(), exact, rtol=1e-5, atol=0)


def test_norms_say_which_run_is_not_finite() -> None:
    tensor = torch.ones(3, 4)
    tensor[1, 2] = float("inf")
    assert torch.isfinite(per_run_norm([tensor, torch.ones(3, 2)])).tolist() == [True, False, True]


def test_clipping_bounds_the_norm_and_every_pixel() -> None:
    g = (
        torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        * torch.tensor([0.01, 1, 9])[:, None, None, None]
    )
    assert clipped(g, OptimConfig()) is g
    whole = clipped(g, OptimConfig(clip_norm=2.0))
    norms = g.double().flatten(1).norm(dim=1)
    torch.testing.assert_close(whole.double().flatten(1).norm(dim=1), norms.clamp(max=2.0))
    torch.testing.assert_close(whole[0], g[0], rtol=0, atol=0)
    pixels = clipped(g, OptimConfig(clip_pixel=0.5))
    for r in range(3):
        for h in range(8):
            for w in range(8):
                pixel = g[r, :, h, w]
                factor = min(1.0, 0.5 / float(pixel.abs().max()))
                torch.testing.assert_close(pixels[r, :, h, w], pixel * factor)
    both = OptimConfig(clip_pixel=0.5, clip_norm=2.0)
    assert torch.equal(clipped(g, both), clipped(pixels, OptimConfig(clip_norm=2.0)))
    assert torch.equal(clipped(g, both)[1:2], clipped(g[1:2], both))


def test_clipping_leaves_nothing_and_what_is_not_finite_as_it_is() -> None:
    g = torch.zeros(2, 4, 2, 2)
    g[1, 0, 0, 0] = float("inf")
    found = clipped(g, OptimConfig(clip_pixel=0.5, clip_norm=2.0))
    assert torch.equal(found[0], g[0]) and not found[1].isfinite().all()
