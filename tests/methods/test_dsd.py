"""DSD against its definition (arXiv 2412.06780)."""

import math

import torch

from harness.guidance.prior import Guidance
from tests.methods import plain

GRID = [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]


def definition(run: plain.Run, t: int) -> torch.Tensor:
    ahead = t + int(min(0.1 * max(t - 320, 0), 999 - t) * run.uniform("ahead"))
    levels = [*(level for level in GRID if level > ahead), ahead]
    z = run.normal("start", fixed=True)
    for k in range(len(levels) - 1):
        z = run.hop(z, run.cfg(z, levels[k]), levels[k], levels[k + 1])
    noise = run.cfg(z, ahead)
    target = run.eps(run.noised(run.x, noise, ahead), ahead, run.prompt)
    return run.q(t) ** 2 * (run.cfg(run.noised(run.x, noise, t), t) - target)


def test_a_step(any_prior: Guidance) -> None:
    prior = plain.changed(any_prior, weighting="sds")
    ctx = plain.context(prior, [100, 320, 950])
    assert plain.check(plain.made("dsd", prior), prior, ctx, definition)[:2] == [2 * 9 + 5, 2 * 7 + 5]


def test_the_trajectory_is_the_runs_own(prior: Guidance) -> None:
    early, late = (plain.context(prior, [500, 500, 500], i=i) for i in (2, 9))
    assert torch.equal(early.normal("start", fixed=True), late.normal("start", fixed=True))
    assert not torch.equal(early.normal("start", fixed=True)[0], early.normal("start", fixed=True)[2])


def test_timesteps_fall_with_the_square_root(prior: Guidance) -> None:
    found = plain.timesteps(plain.made("dsd", prior), [1, 2501, 10000], 10000)
    assert found == [980, 650, 320 + int(660 * (1 - math.sqrt(0.9999)))]
