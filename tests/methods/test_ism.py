"""ISM against its definition (arXiv 2311.11284)."""

import pytest
import torch

from harness.guidance.prior import Guidance
from tests.methods import plain

UGLY = "ugly, dull"


def definition(run: plain.Run, t: int, warm: float = 0.0, flips: bool = False) -> torch.Tensor:
    interval = 80 + int(20 * warm)
    s = max(t - interval, 1)
    offset = 0.1 * run.normal("offset", run.x.shape[0], 1, 1)
    z = run.noised(run.x.flip(-1) if flips else run.x, run.noise + offset, 1)
    at = 1
    while at < s:
        to = min(at + 200, s)
        z = run.hop(z, run.eps(z, at, ""), at, to)
        at = to
    target = run.eps(z, s, "")
    z = run.hop(z, target, s, t)
    g = 0.1 * run.q(t) / run.a(t) * (run.cfg(z, t, negative=UGLY) - target)
    return g.flip(-1) if flips else g


def test_a_step(any_prior: Guidance) -> None:
    prior = plain.changed(any_prior, negative=UGLY)
    ctx = plain.context(prior, [60, 500, 941], i=10)
    assert plain.check(plain.made("ism", prior), prior, ctx, definition) == [3, 6, 8]


def test_a_step_of_the_warm_up(prior: Guidance) -> None:
    prior = plain.changed(prior, negative=UGLY)
    ctx = plain.context(prior, [300, 500], i=[3, 6])  # of 20 steps, of which 6 warm up
    warm = {3: 0.5, 6: 0.0}
    plain.check(plain.made("ism", prior), prior, ctx, lambda run, t: definition(run, t, warm[run.step]))


def test_a_mirrored_step(prior: Guidance) -> None:
    prior = plain.changed(prior, negative=UGLY)
    ctx = plain.context(prior, [300, 400, 500], i=10)
    flips = (ctx.uniform("flip", (1, 1, 1)).flatten() < 0.5).tolist()
    assert len(set(flips)) == 2
    method = plain.made("ism", prior, flip=True)
    plain.check(method, prior, ctx, lambda run, t: definition(run, t, flips=flips[run.r]))


@pytest.mark.parametrize(
    ("step", "low", "high"), [(1, 21, 979), (750, 21, 740), (1500, 21, 500), (5000, 21, 500)]
)
def test_timesteps(prior: Guidance, step: int, low: int, high: int) -> None:
    method = plain.made("ism", prior)
    assert plain.timesteps(method, [step], 5000, 0.0) == [low]
    assert plain.timesteps(method, [step], 5000, 0.999999) == [high]


def test_a_narrower_range_cuts_them(prior: Guidance) -> None:
    method = plain.made("ism", plain.changed(prior, t_range=(0.1, 0.4)))
    found = [plain.timesteps(method, [step], 20, draw)[0] for step in (1, 20) for draw in (0.0, 0.999999)]
    assert found == [100, 400, 100, 400]
    beyond = plain.made("ism", plain.changed(prior, t_range=(0.6, 0.8)))
    assert plain.timesteps(beyond, [20], 20, 0.5) == [600]
