"""CFD and FSD against their definition (arXiv 2501.05445, 2405.10988): the noise is fixed to the object."""

from typing import Any

import pytest
import torch
from torch import Tensor

from harness.config import UserError
from harness.distill.context import GradientContext
from harness.guidance.prior import Guidance
from harness.scene.cameras import make
from harness.scene.contract import View
from tests.methods import plain

AZIMUTHS, ELEVATIONS = [0.0, 100.0, 350.0], [0.0, 45.0, -90.0]


def seen(prior: Guidance, opacity: bool, azimuths=AZIMUTHS, i: int = 5) -> GradientContext:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, *prior.latent_shape, generator=generator)
    opaque_RHW = torch.rand(3, *prior.latent_shape[1:], generator=generator) if opacity else None
    steps, t = torch.tensor([i] * 3), torch.tensor([100, 500, 900])
    cameras = make(azimuths, ELEVATIONS, [2.0] * 3, [40.0] * 3)
    view = View(x.requires_grad_() * 1.0, opaque_RHW)
    return GradientContext(prior, plain.KEYS, steps, steps * 4, t, view, cameras, plain.VIEWS)


def flow(run: plain.Run, t: int, noise: Tensor) -> Tensor:
    return run.q(t) / run.a(t) * (run.cfg(run.noised(run.x, noise, t), t) - noise)


def test_a_step_of_an_image(any_prior: Guidance) -> None:
    def definition(run: plain.Run, t: int) -> Tensor:
        return flow(run, t, run.normal("behind", fixed=True))

    assert plain.check(plain.made("cfd", any_prior), any_prior, seen(any_prior, False), definition) == [2] * 3
    fixed = plain.made("cfd", any_prior, noise="fixed")
    plain.check(fixed, any_prior, seen(any_prior, True), definition)


def test_a_step_of_an_object(prior: Guidance) -> None:
    def definition(run: plain.Run, t: int) -> Tensor:
        C, H, W = run.x.shape
        whole = run.normal("map", C, 2 * H, 2 * W, fixed=True)
        noise = run.normal("behind", fixed=True).clone()
        right, down = int(AZIMUTHS[run.r] / 360 * 2 * W), int((90 - ELEVATIONS[run.r]) / 180 * H)
        for h in range(H):
            for w in range(W):
                if run.ctx.map("opacity")[run.r, h, w] >= 0.5:
                    noise[:, h, w] = whole[:, down + h, (right + w) % (2 * W)]
        return flow(run, t, noise)

    plain.check(plain.made("cfd", prior), prior, seen(prior, True), definition)


def test_the_noise_of_an_object_turns_with_it(prior: Guidance) -> None:
    """One column of 2·W to the right is one column of the picture to the left; steps change nothing."""
    method: Any = plain.made("cfd", prior)
    column = 360 / (2 * prior.latent_shape[2])

    def noise(turn: int, i: int = 5) -> Tensor:
        ctx = seen(prior, True, [turn * column + 1.0] * 3, i)
        ctx._view = View(ctx._view.x_RCHW, torch.ones_like(ctx.map("opacity")))
        return method._noise(ctx)

    assert torch.equal(noise(3), noise(3, i=6)) and torch.equal(noise(16), noise(0))
    assert torch.equal(noise(4)[..., :-1], noise(3)[..., 1:])
    assert not torch.isclose(noise(3), noise(4)).any(dim=0).all()


def test_timesteps(prior: Guidance) -> None:
    assert plain.timesteps(plain.made("cfd", prior), [0, 25, 100], 100) == [980, 740, 20]
    slow = plain.made("cfd", prior, preset="long")
    assert plain.timesteps(slow, [0, 10, 50, 75, 100], 100) == [980, 692, 404, 308, 212]


@pytest.mark.parametrize(
    "pace", [[], [[0, 0]], [[0, 0], [0.5, 1]], [[0, 0], [1, 2]], [[0, 0], [0.5, 0], [0.5, 1], [1, 1]]]
)
def test_a_pace_that_is_none_is_told(prior: Guidance, pace: list) -> None:
    with pytest.raises(UserError, match="pairs of numbers"):
        plain.made("cfd", prior, pace=pace)
