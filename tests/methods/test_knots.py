"""knots: straight lines between knots, a band around them, and their own number of steps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.config import UserError
from harness.distill.method import NoiseSchedule, load_method
from harness.distill.schedules import sd_alphas_cumprod

NOISE = NoiseSchedule(torch.from_numpy(sd_alphas_cumprod()).float(), 20, 980)


def made(**params: Any):
    method = load_method("knots")
    return method(method.resolve(params), NOISE)


def plain(at: list[float], band: float, progress: float, draw: float) -> int:
    """By the definition, for one run."""
    place = progress * (len(at) - 1)
    left = min(math.floor(place), len(at) - 2)
    way = at[left] + (at[left + 1] - at[left]) * (place - left) + band * (draw - 0.5)
    return 20 + math.floor(960 * min(max(way / 100, 0), 1) + 0.5)


@given(
    st.lists(st.integers(0, 100), min_size=2, max_size=7),
    st.integers(0, 100),
    st.integers(1, 500),
    st.floats(0, 1, exclude_max=True, width=32),
)
def test_it_is_its_definition_inside_the_range(at: list[int], band: int, total: int, draw: float) -> None:
    at = sorted(at, reverse=True)
    step = torch.arange(1, total + 1)
    method = made(at="/".join(map(str, at)), band=band)
    t = method.timesteps(step, torch.full_like(step, total), torch.full((total,), draw)).tolist()
    for i, found in zip(step.tolist(), t, strict=True):
        assert abs(found - plain([*map(float, at)], band, i / total, draw)) <= 1  # rounding, at a half
    assert min(t) >= 20 and max(t) <= 980
    assert t == sorted(t, reverse=True)


def test_linear_decay_is_two_knots() -> None:
    step, total = torch.arange(1, 101), torch.full((100,), 100)
    linear = load_method("linear_decay")
    theirs = linear(linear.resolve({}), NOISE).timesteps(step, total, torch.zeros(100))
    assert (made().timesteps(step, total, torch.zeros(100)) - theirs).abs().max() <= 1


def test_a_horizon_of_its_own_does_not_look_at_n() -> None:
    step, draws = torch.arange(1, 41), torch.zeros(40)
    method = made(at="100/50/10", horizon=20)
    short, long = (method.timesteps(step, torch.full_like(step, n), draws) for n in (40, 4000))
    assert torch.equal(short, long)
    assert set(short[19:].tolist()) == {20 + 96}


@pytest.mark.parametrize("at", ["100", "0/100", "a/b", "100//0", "120/0", "nan/0", "50/-1"])
def test_knots_that_rise_or_are_none_are_refused(at: str) -> None:
    with pytest.raises(UserError, match="method knots, at: knots"):
        load_method("knots").resolve({"at": at}, "knots")
