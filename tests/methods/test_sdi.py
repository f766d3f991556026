"""SDI (arXiv 2405.15891), as coded and as published, and JSD, which goes on from it."""

import math

import pytest
import torch

from harness.guidance.prior import Guidance
from tests.methods import plain


def inverted(run: plain.Run, t: int, scale: float) -> tuple[torch.Tensor, int]:
    """The render at level L, by stochastic DDIM inversion; and L."""
    last = min(t + int(100 * run.uniform("inversion length")), 999)
    levels = [0, *(level for level in range(1, 1000, 100) if level < t), last]
    z = run.x
    for k in range(len(levels) - 1):
        u, v = levels[k], levels[k + 1]
        bar_u, bar_v = run.a(u) ** 2, run.a(v) ** 2
        deviation = math.sqrt(run.q(u) ** 2 / run.q(v) ** 2 * (1 - bar_v / bar_u))
        z = run.hop(z, run.cfg(z, u, scale), u, v) + 0.3 * deviation * run.normal(f"inversion {k}")
    return z, last


def as_coded(run: plain.Run, t: int) -> torch.Tensor:
    z, _ = inverted(run, t, -7.5)
    return run.x - run.clean(z, run.cfg(z, t), t)


def as_published(run: plain.Run, t: int) -> torch.Tensor:
    z, level = inverted(run, t, -7.5)
    kappa = (z - run.a(level) * run.x) / run.q(level)
    z = run.noised(run.x, kappa, t)
    return run.x - run.clean(z, run.cfg(z, t), t)


def jsd(run: plain.Run, t: int) -> torch.Tensor:
    z, _ = inverted(run, t, -13.5)
    first = run.clean(z, run.cfg(z, t), t)
    again = run.noised(first, run.noise, t)
    second = run.clean(again, run.cfg(again, t), t)
    return (run.x - first) + (run.x - second)


@pytest.mark.parametrize("definition", [as_coded, as_published, jsd])
def test_a_step(any_prior: Guidance, definition) -> None:
    ctx = plain.context(any_prior, [250, 520, 980])
    params = {"remap": True} if definition is as_published else {}
    method = plain.made("jsd" if definition is jsd else "sdi", any_prior, **params)
    extra = 2 if definition is jsd else 0
    nfe = [2 * (math.ceil((t - 1) / 100) + 1) + 2 + extra for t in (250, 520, 980)]
    assert plain.check(method, any_prior, ctx, definition) == nfe


@pytest.mark.parametrize("name", ["sdi", "jsd"])
def test_timesteps_fall_in_equal_strides(prior: Guidance, name: str) -> None:
    found = plain.timesteps(plain.made(name, prior), [1, 2501, 5001, 10000], 10000)
    assert found == [980, 797, 615, 250]
    assert plain.timesteps(plain.made(name, plain.changed(prior, t_range=(0.4, 0.6))), [1, 40], 40) == [
        600,
        400,
    ]
