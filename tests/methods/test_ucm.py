"""UCM against its definition in the flow's own coordinates (arXiv 2408.05008)."""

import pytest
import torch

from harness.guidance.prior import Guidance
from tests.methods import plain

UGLY = "ugly, dull"


def definition(run: plain.Run, t: int) -> torch.Tensor:
    """Written for x_σ = (1−σ)·x + σ·e and v = e − x̂_0, of any prior at σ = q/(a + q)."""

    def sigma(at: int) -> float:
        return run.q(at) / (run.a(at) + run.q(at))

    def velocity(z: torch.Tensor, at: int, guided: bool = False) -> torch.Tensor:
        scaled = z * (run.a(at) + run.q(at))
        eps = run.cfg(scaled, at, negative=UGLY) if guided else run.eps(scaled, at, run.prompt)
        return eps - run.clean(scaled, eps, at)

    e = run.noise
    if run.step > 0.18 * run.total:
        thirds = [min(range(1000), key=lambda at: abs(sigma(at) - k / 3)) for k in (1, 2)]
        e, levels = run.x, [-1, *thirds]
        for k, at in enumerate(levels):
            to = sigma(levels[k + 1]) if k < 2 else 1.0
            e = e + (to - sigma(at)) * velocity(e, at)
    s = sigma(t)
    return velocity((1 - s) * run.x + s * e, t, guided=True) - (e - run.x)


def test_a_step_before_and_after_the_warm_up(any_prior: Guidance) -> None:
    prior = plain.changed(any_prior, negative=UGLY)
    ctx = plain.context(prior, [20, 400, 690], i=[3, 4, 20])
    assert plain.check(plain.made("ucm", prior), prior, ctx, definition) == [2, 5, 5]


@pytest.mark.parametrize(("draw", "t"), [(0.0, 20), (0.5, 360), (0.999999, 699)])
def test_timesteps(prior: Guidance, draw: float, t: int) -> None:
    assert plain.timesteps(plain.made("ucm", prior), [7], 20, draw) == [t]
