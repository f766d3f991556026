"""Schedules against the table of the paper's facts, and their properties."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.distill.schedules import Density, Schedule, sd_alphas_cumprod, signal_to_noise_weight

N = 10_000
ALPHAS = sd_alphas_cumprod()
# Stable Diffusion's betas, N = 10 000, t in [20, 980]: t at these shares i/N, and the mean over the run.
SHARES = [0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, (N - 1) / N]
TABLE = {
    "v1 piecewise": ([980, 974, 946, 914, 822, 673, 524, 429, 382, 302, 151], 670.1),
    "v2 W_d·G(500,125)": ([980, 854, 767, 720, 642, 556, 470, 394, 349, 264, 101], 556.6),
    "W_p only G(500,125)": ([980, 791, 706, 661, 585, 501, 416, 340, 295, 210, 51], 500.5),
    "W_d only": ([980, 979, 970, 959, 918, 823, 650, 434, 303, 121, 22], 755.0),
    "linear": ([980, 970, 932, 884, 740, 500, 260, 116, 68, 29, 20], 499.6),
    "truncated linear": ([980, 970, 932, 884, 740, 500, 260, 200, 200, 200, 200], 517),
    "HiFA √": ([980, 884, 765, 676, 500, 301, 148, 69, 44, 24, 20], 339.6),
}
WEIGHTINGS = {
    "v1 piecewise": Density("piecewise"),
    "v2 W_d·G(500,125)": Density("gaussian", snr_weight=True),
    "W_p only G(500,125)": Density("gaussian"),
    "W_d only": Density(snr_weight=True),
    "linear": Density(),
    "truncated linear": Density(),
    "HiFA √": Density("ramp"),
}


def schedule(weighting: Density, alphas=ALPHAS, low: int = 20, high: int = 980, **kwargs: Any) -> Schedule:
    return Schedule(weighting.over(alphas, low, high), low, high, **kwargs)


def whole(plan: Schedule, total: int = N, draws: Any = None) -> np.ndarray:
    steps = np.arange(1, total + 1)
    return plan.timesteps(steps, np.full(total, total), np.zeros(total) if draws is None else draws)


@pytest.mark.parametrize("name", TABLE)
def test_table(name: str) -> None:
    plan = schedule(WEIGHTINGS[name], floor=200 if name == "truncated linear" else None)
    expected, mean = TABLE[name]
    steps = np.round(np.array(SHARES) * N).astype(int)
    found = plan.timesteps(steps, np.full(len(steps), N), np.zeros(len(steps)))
    assert np.abs(found - expected).max() <= 1, found.tolist()
    assert abs(whole(plan).mean() - mean) <= 1


@pytest.mark.parametrize(
    ("m", "s", "mean"), [(250, 125, 313), (750, 125, 796), (500, 75, 520), (500, 250, 671), (500, 500, 733)]
)
def test_mean_of_other_constants(m: float, s: float, mean: float) -> None:
    assert abs(whole(schedule(Density("gaussian", True, m=m, s=s))).mean() - mean) <= 1


def test_w_d() -> None:
    t = [0, 20, 100, 250, 500, 750, 800, 900, 980, 999]
    expected = [0.029, 0.138, 0.344, 0.696, 1.618, 4.10, 5.11, 8.35, 13.04, 14.61]
    np.testing.assert_allclose(signal_to_noise_weight(ALPHAS)[t], expected, rtol=3e-3, atol=1e-3)


@pytest.mark.parametrize("name", TABLE)
def test_argmin_by_bisection_is_the_argmin(name: str) -> None:
    weights = WEIGHTINGS[name].over(ALPHAS, 20, 980)[20:981]
    tails = np.cumsum(weights[::-1])[::-1] / weights.sum()
    total = 300
    slow = [20 + int(np.abs(tails - i / total).argmin()) for i in range(1, total + 1)]
    assert np.abs(whole(schedule(WEIGHTINGS[name]), total) - slow).max() <= 1


@given(
    prior=st.sampled_from(["constant", "gaussian", "piecewise", "ramp"]),
    snr_weight=st.booleans(),
    m=st.floats(100, 900),
    s=st.floats(60, 800),
    total=st.integers(1, 3000),
    low=st.integers(0, 400),
    span=st.integers(1, 500),
)
@settings(max_examples=60, deadline=None)
def test_never_rises_and_stays_in_range(prior, snr_weight, m, s, total, low, span) -> None:
    plan = schedule(Density(prior, snr_weight, m=m, s=s), low=low, high=low + span)
    t = whole(plan, total)
    assert (np.diff(t) <= 0).all()
    assert t.min() >= low and t.max() <= low + span and t[-1] == low
    ascending = schedule(Density(prior, snr_weight, m=m, s=s), low=low, high=low + span, order="ascending")
    assert (whole(ascending, total) == t[::-1]).all()
    scattered = schedule(Density(prior, snr_weight, m=m, s=s), low=low, high=low + span, order="scattered")
    assert sorted(whole(scattered, total)) == sorted(t)


@given(total=st.integers(12, 2000), share=st.floats(0.1, 1))
@settings(max_examples=60, deadline=None)
def test_scattered_steps_cover_the_range_at_all_times(total: int, share: float) -> None:
    t = whole(schedule(Density(), low=0, high=999, order="scattered"), total)
    first = t[: max(4, int(share * total))]
    gaps = np.diff([0, *sorted(first), 999])
    assert (
        gaps.max() <= 6 * 1000 / len(first) + 1000 / total
    )  # at random the largest is about ln n times that
    assert abs(first.mean() - 500) < 160


def test_every_run_has_its_own_number_of_steps() -> None:
    plan = schedule(Density("piecewise"))
    mixed = plan.timesteps([1, 50, 200, 10], [10, 100, 400, 10], np.zeros(4))
    assert mixed.tolist() == [whole(plan, 10)[0], whole(plan, 100)[49], whole(plan, 400)[199], 20]


def test_cosine_noise_schedule_is_safe() -> None:
    # Its last ᾱ is zero, W_d there infinite: the range leaves it out, and the weight is normalised inside.
    u = np.arange(1001) / 1000
    f = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    alphas = np.clip(f[1:] / f[0], 0, None)
    alphas[-1] = 0.0
    for weighting in (Density(snr_weight=True), Density("gaussian", True)):
        t = whole(schedule(weighting, alphas), 500)
        assert (np.diff(t) <= 0).all() and t[0] > 600 and t[-1] == 20
        assert len(np.unique(t)) > 100
    with pytest.raises(ValueError, match="not finite"):
        schedule(Density(snr_weight=True), alphas, high=999)


def test_random_order_draws_from_w() -> None:
    plan = schedule(Density("gaussian"), order="random")
    draws = np.random.default_rng(0).random(40_000)
    t = whole(plan, len(draws), draws)
    assert abs(t.mean() - 500) < 3 and abs(t.std() - 125) < 3
    assert plan.timesteps([1, 1], [9, 9], [0.0, np.nextafter(1, 0)]).tolist() == [980, 20]


def test_a_range_outside_the_noise_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="not inside"):
        schedule(Density(), high=1000)
