from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from eval.statistics.convergence import (
    Axis,
    Ratio,
    _first_crossing,
    area_under_curve,
    curve,
    own_n,
    ratio_to_baseline,
)
from eval.statistics.intervals import RESAMPLES, share_mean
from harness.config import UserError

N = 400
FEW = 400  # resamples


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def steps_to_level(x: Sequence[float] | np.ndarray, y: Sequence[float], level: float) -> float:
    """The x of one curve's first crossing."""
    return float(_first_crossing(np.asarray(x, np.float64), np.array([y]), np.array([level]))[0])


def scores(
    method: str, onsets: Mapping[tuple[str, int], float], steps: Sequence[int], seconds: float = 0.1
) -> pd.DataFrame:
    """Runs that retrieve their prompt from the step `onsets[prompt, seed]` on, at `seconds` a step."""
    rows = [
        (method, prompt, seed, N, step, seconds * step, float(step >= onset))
        for (prompt, seed), onset in onsets.items()
        for step in steps
    ]
    return pd.DataFrame(rows, columns=["method", "prompt", "seed", "total", "step", "cost", "value"])


def onsets(prompts: int = 20, seeds: int = 3, fastest: float = 40, slowest: float = N) -> dict:
    draws = np.random.default_rng(7).uniform(fastest, slowest, (prompts, seeds))
    return {(f"p{i:02d}", s): float(draws[i, s]) for i in range(prompts) for s in range(seeds)}


def own_totals(frame: pd.DataFrame) -> pd.DataFrame:
    """The same numbers as if every checkpoint were the end of a run of its own."""
    return frame.assign(total=frame["step"])


BASE = onsets()
HALF = {run: onset / 2 for run, onset in BASE.items()}
TWICE_AS_FAST = pd.concat(
    [scores("base", BASE, range(40, N + 1, 40)), scores("fast", HALF, range(20, N + 1, 20))]
)


@pytest.mark.parametrize("share", [1.0, 0.95, 0.8, 0.5])
@pytest.mark.parametrize("x", ["step", "cost"])
def test_half_the_steps_is_half(share: float, x: Axis) -> None:
    found = ratio_to_baseline(TWICE_AS_FAST, "fast", "base", rng(), share, x)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert found.level == pytest.approx(share)
    assert (found.n_prompts, found.n_runs, found.n_dropped, found.n_undefined) == (20, 60, 0, 0)


def test_half_the_steps_at_twice_the_cost_is_no_gain() -> None:
    frame = TWICE_AS_FAST.assign(cost=TWICE_AS_FAST["cost"] * (1 + (TWICE_AS_FAST["method"] == "fast")))
    assert ratio_to_baseline(frame, "fast", "base", rng(), 0.9, "cost").value == pytest.approx(1)
    assert ratio_to_baseline(frame, "fast", "base", rng(), 0.9, "step").value == pytest.approx(0.5)


def test_the_error_of_a_measured_cost_widens_the_interval() -> None:
    scatter_B = np.linspace(0.9, 1.1, FEW)
    found = ratio_to_baseline(TWICE_AS_FAST, "fast", "base", rng(), 0.8, "cost", FEW, scatter_B)
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((0.5 * 0.905, 0.5 * 1.095), abs=2e-3)


def test_separate_runs_reach_a_level_between_two_of_their_n() -> None:
    """The baseline has 100 % at N = 400 and half of it at 200; the method half at 100 and all at 200."""
    half = {run: 200 if i < 30 else 400 for i, run in enumerate(BASE)}
    base = own_totals(scores("base", half, [100, 200, 400]))
    fast = own_totals(scores("fast", {run: at / 2 for run, at in half.items()}, [100, 200, 400]))
    found = own_n(pd.concat([base, fast]), "fast", "base", rng(), 0.8, FEW)
    assert (found.level, found.n_prompts, found.n_runs, found.n_dropped) == (0.8, 20, 60, 0)
    assert (found.method.low, found.method.high) == (100, 200)
    assert (found.baseline.low, found.baseline.high) == (200, 400)
    assert (found.ratio.low, found.ratio.high) == (0.25, 1), "from 100/400 to 200/200"
    at_half = own_n(pd.concat([base, fast]), "fast", "base", rng(), 0.5, FEW)
    assert (at_half.method.low, at_half.method.high) == (0, 100), "reached at the smallest N"
    assert (at_half.ratio.low, at_half.ratio.high) == (0, 1)
    # Half of the prompts: a resample draws fewer than half of the early ones as often as not.
    assert (at_half.baseline.outer_low, at_half.baseline.outer_high) == (100, 400)


def test_an_n_that_is_not_run_is_not_invented() -> None:
    late = {run: math.inf for run in BASE}
    frame = own_totals(pd.concat([scores("base", BASE, [100, 400]), scores("late", late, [100, 400])]))
    found = own_n(frame, "late", "base", rng(), 0.8, FEW)
    assert (found.method.low, found.method.high, found.ratio.high) == (400, math.inf, math.inf)
    assert found.ratio.low == 1
    nothing = own_n(frame, "base", "late", rng(), 0.8, FEW)  # a level of zero says nothing
    assert (nothing.ratio.low, nothing.ratio.high) == (0, math.inf)
    one = own_n(frame.loc[frame["prompt"] == "p00"], "late", "base", rng(), 0.8, FEW)
    assert math.isnan(one.method.outer_low) and math.isnan(one.ratio.outer_high)


def test_ratio_agrees_with_scipy_and_a_search() -> None:
    """The interval against scipy's bootstrap of indices, the crossing against a search on a fine grid."""
    steps, fine = range(40, N + 1, 40), np.linspace(0, N, 4001)
    noisy = {run: onset * np.random.default_rng(9).lognormal(-0.3, 0.3) for run, onset in BASE.items()}
    frame = pd.concat([scores("base", BASE, steps), scores("noisy", noisy, steps)])
    tables = frame.pivot_table(index=["method", "prompt"], columns="step", values="value")
    base_PX, noisy_PX = tables.loc["base"].to_numpy(), tables.loc["noisy"].to_numpy()

    def reach(y_PX: np.ndarray, level: float) -> float:
        return fine[np.argmax(np.interp(fine, np.r_[0, steps], np.r_[0, y_PX.mean(axis=0)]) >= level - 1e-12)]

    def statistic(index: np.ndarray) -> float:
        drawn = index.astype(int)
        level = 0.9 * base_PX[drawn].mean(axis=0)[-1]
        return reach(noisy_PX[drawn], level) / reach(base_PX[drawn], level)

    indices = np.arange(len(base_PX))
    theirs = scipy_stats.bootstrap(
        (indices,), statistic, n_resamples=1000, vectorized=False, method="percentile", rng=rng()
    ).confidence_interval
    ours = ratio_to_baseline(frame, "noisy", "base", rng(), 0.9)
    assert ours.value == pytest.approx(statistic(indices), abs=2e-3)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
    assert ours.low < ours.value < ours.high


def test_a_level_never_reached_is_infinite_and_opens_the_interval() -> None:
    late = {run: math.inf for run in BASE}
    frame = pd.concat([scores("base", BASE, [200, 400]), scores("late", late, [200, 400])])
    found = ratio_to_baseline(frame, "late", "base", rng(), 1.0, resamples=FEW)
    assert found.value == found.low == found.high == math.inf
    assert found.n_undefined == FEW


def test_some_resamples_without_the_level_open_only_the_upper_end() -> None:
    names = sorted({prompt for prompt, _ in BASE})
    base = {(name, 0): 200 if i < 10 else math.inf for i, name in enumerate(names)}
    other = {(name, 0): 100 if i >= 9 else math.inf for i, name in enumerate(names)}
    frame = pd.concat([scores("base", base, [100, 200, 400]), scores("other", other, [100, 200, 400])])
    found = ratio_to_baseline(frame, "other", "base", rng(), 1.0)
    assert found.value == pytest.approx(100 * 10 / 11 / 200)
    assert 0 < found.low < 1 and found.high == math.inf
    assert 0.2 < found.n_undefined / RESAMPLES < 0.6


def test_a_baseline_at_zero_defines_no_ratio() -> None:
    never = {run: math.inf for run in BASE}
    frame = pd.concat([scores("base", never, [200, 400]), scores("other", BASE, [200, 400])])
    found = ratio_to_baseline(frame, "other", "base", rng(), resamples=FEW)
    assert math.isnan(found.value) and (found.low, found.high) == (0, math.inf)
    assert found.level == 0 and found.n_undefined == FEW


def test_one_prompt_has_a_ratio_but_no_interval() -> None:
    frame = TWICE_AS_FAST.loc[TWICE_AS_FAST["prompt"] == "p00"]
    found = ratio_to_baseline(frame, "fast", "base", rng())
    assert found.value == pytest.approx(0.5) and math.isnan(found.low) and math.isnan(found.high)
    assert curve(frame)[["low", "high"]].isna().to_numpy().all()


def test_only_pairs_complete_in_both_methods_count() -> None:
    frame = own_totals(TWICE_AS_FAST)
    lacks = (frame["method"] == "fast") & (frame["prompt"] == "p03") & (frame["seed"] == 1)
    gap, absent = frame.loc[~(lacks & (frame["step"] == 200))], frame.loc[~lacks]
    for part, dropped in ((gap, 1), (absent, 0)):
        found = own_n(part, "fast", "base", rng(), 0.5, FEW)
        assert (found.n_prompts, found.n_runs, found.n_dropped) == (20, 59, 1)
        assert found.ratio.low <= 0.5 <= found.ratio.high, "the pair is left out of both methods"
        steps = ratio_to_baseline(part.assign(total=N), "fast", "base", rng(), 0.5, "step", FEW)
        assert (steps.n_runs, steps.n_dropped, steps.value) == (59, 1, pytest.approx(0.5))
        table = curve(part, "total").groupby("method").first()
        assert list(table.loc["fast", ["n_runs", "n_dropped", "n_seeds"]]) == [59, dropped, 3]
    only = frame.loc[~((frame["method"] == "base") ^ (frame["prompt"] == "p00"))]
    with pytest.raises(UserError, match="in common"):
        own_n(only, "fast", "base", rng())
    torn = frame.loc[(frame["method"] == "base") | ((frame["seed"] == 0) ^ (frame["step"] < 200))]
    with pytest.raises(UserError, match="no run of fast has a score at every total"):
        curve(torn, "total")


def test_curve_is_the_mean_over_prompts_with_the_interval_of_a_share() -> None:
    uneven = {run: onset for run, onset in BASE.items() if run != ("p00", 2)}
    frame = scores("base", uneven, [100, 200, 400])
    table = curve(frame).set_index("x")
    assert list(table.index) == [100, 200, 400] and set(table["n_prompts"]) == {20}
    at_200 = frame.loc[frame["step"] == 200]
    values = {str(prompt): list(part["value"]) for prompt, part in at_200.groupby("prompt")}
    one = share_mean(values)
    assert list(table.loc[200, ["mean", "low", "high"]]) == pytest.approx([one.value, one.low, one.high])


def test_methods_that_score_alike_have_the_same_band() -> None:
    frame = pd.concat([scores(name, BASE, [100, 200, 400]) for name in ("a", "b")])
    for x in ("step", "cost"):
        table = curve(frame, x)
        a, b = (table[table["method"] == name].drop(columns="method").to_numpy() for name in ("a", "b"))
        assert np.array_equal(a, b) and np.ptp(a[:, 2]) > 0


def test_area_of_known_curves() -> None:
    names = [(f"p{i}", 0) for i in range(5)]
    at_once, half_way, never = (scores(m, dict.fromkeys(names, at), [1, 200, 201, 400])
                                for m, at in (("first", 0), ("half", 201), ("never", math.inf)))  # fmt: skip
    found = area_under_curve(pd.concat([at_once, half_way, never]), rng(), baseline="half", resamples=FEW)
    assert found["first"].value == pytest.approx(1 - 0.5 / N) and found["never"].value == 0
    assert found["half"].value == pytest.approx(199.5 / N) and found["half"].difference is None
    gain, loss = found["first"].difference, found["never"].difference
    assert gain and gain.value == pytest.approx(200 / N) and gain.wins == 5 and gain.n_pairs == 5
    assert loss and loss.value == pytest.approx(-199.5 / N) and loss.p_value == pytest.approx(2 / 2**5)


def test_areas_are_compared_over_the_range_that_all_methods_have() -> None:
    frame = pd.concat(
        [scores("base", BASE, [100, 200, 400], 0.2), scores("cheap", BASE, [100, 200, 400], 0.1)]
    )
    found = area_under_curve(frame, rng(), "cost", "base", FEW)
    alone = area_under_curve(frame.loc[frame["method"] == "cheap"], rng(), "cost", resamples=FEW)
    assert found["cheap"].value == alone["cheap"].value, "over its 40 s"
    half = frame.loc[(frame["method"] == "base") & (frame["step"] <= 200)]
    assert found["base"].value == area_under_curve(half, rng(), "cost", resamples=FEW)["base"].value
    with pytest.raises(UserError, match="compare them N by N"):
        area_under_curve(own_totals(frame), rng(), "total")


def test_mean_area_is_the_area_under_the_mean_curve() -> None:
    table = curve(TWICE_AS_FAST)
    for method, one in area_under_curve(TWICE_AS_FAST, rng(), resamples=FEW).items():
        mine = table[table["method"] == method]
        area = np.trapezoid([0, *mine["mean"]], [0, *mine["x"]]) / N
        assert one.value == pytest.approx(area) and one.low < one.value < one.high


@pytest.mark.parametrize(
    ("x", "y", "level", "expected"),
    [
        ([100, 200], [0.2, 0.6], 0.4, 150),  # between two points
        ([100, 200], [0.2, 0.6], 0.1, 50),  # on the line from (0, 0)
        ([0, 100], [0.5, 0.6], 0.1, 0),  # evaluated at 0: no line before it
        ([100, 200], [0.2, 0.6], 0.6, 200),
        ([100, 200], [0.2, 0.6], 0.61, math.inf),
        ([100, 200, 300, 400], [0.5, 0.2, 0.1, 0.7], 0.5, 100),  # first crossing, though it falls again
        ([100, 200, 300], [0.4, 0.2, 0.6], 0.4, 100),
        ([100], [0.0], 0.0, 0),
        ([100], [0.3], 0.1 + 0.2, 100),  # equal but for the order of a sum
    ],
)
def test_steps_to_level(x: list[float], y: list[float], level: float, expected: float) -> None:
    assert steps_to_level(x, y, level) == pytest.approx(expected)


curves = st.lists(st.sampled_from(np.linspace(0, 1, 11).tolist()), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(curves, st.floats(0.01, 1), st.sampled_from([0.001, 0.5, 3.0, 1e4]))
def test_scaling_x_scales_the_steps(y: list[float], level: float, factor: float) -> None:
    x = np.arange(1, len(y) + 1) * 10.0
    steps = steps_to_level(x, y, level)
    assert steps_to_level(factor * x, y, level) == pytest.approx(factor * steps)
    assert (steps < math.inf) == (max(y) >= level - 1e-12)
    if steps < math.inf:
        assert np.interp(steps, [0, *x], [0, *y]) == pytest.approx(level, abs=1e-9)
        assert steps <= steps_to_level(x, y, min(level * 1.1, max(y))) or level * 1.1 > max(y)


tables = st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=6, max_size=6), min_size=2, max_size=6)


def as_frame(rows: list[list[float]]) -> pd.DataFrame:
    """A row per prompt: three points of the method "a", then three of "b"."""
    return pd.DataFrame(
        [
            (method, f"p{p}", 0, 30, step, 0.1 * step, row[3 * m + k])
            for p, row in enumerate(rows)
            for m, method in enumerate("ab")
            for k, step in enumerate((10, 20, 30))
        ],
        columns=["method", "prompt", "seed", "total", "step", "cost", "value"],
    )


@settings(max_examples=12, deadline=None, derandomize=True)
@given(tables, st.randoms(use_true_random=False), st.sampled_from(["step", "cost"]))
def test_the_order_of_rows_changes_nothing(rows: list[list[float]], random, x: Axis) -> None:
    frame = as_frame(rows)
    shuffled = frame.iloc[random.sample(range(len(frame)), len(frame))]
    functions: list[Callable] = [
        lambda f: repr(ratio_to_baseline(f, "a", "b", rng(), x=x, resamples=50)),
        lambda f: repr(area_under_curve(f, rng(), x, "a", resamples=50)),
        lambda f: curve(f, x).to_csv(),
    ]
    for function in functions:
        assert function(frame) == function(shuffled)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(tables, st.sampled_from([0.5, 0.95, 1.0]), st.sampled_from(["step", "cost"]))
def test_ranges_and_the_ratio_of_a_method_to_itself(rows: list[list[float]], share: float, x: Axis) -> None:
    frame = as_frame(rows)
    for area in area_under_curve(frame, rng(), x, resamples=200).values():
        assert -1e-12 <= area.low <= area.value + 1e-9 and area.value - 1e-9 <= area.high <= 1 + 1e-12
    other = ratio_to_baseline(frame, "a", "b", rng(), share, x, resamples=200)
    assert 0 <= other.low <= other.high and (math.isnan(other.value) or other.value >= 0)
    same = ratio_to_baseline(frame, "b", "b", rng(), share, x, resamples=200)
    if same.level == 0:
        assert math.isnan(same.value) and same.n_undefined == 200
    else:
        assert same.value == 1
        assert (same.low, same.high) == ((0, math.inf) if same.n_undefined else (1, 1)), (
            "the outermost resamples"
        )


@settings(max_examples=12, deadline=None, derandomize=True)
@given(tables)
def test_one_cost_per_step_gives_the_ratio_of_steps(rows: list[list[float]]) -> None:
    frame = as_frame(rows)
    by_step, by_cost = (
        ratio_to_baseline(frame, "a", "b", rng(), x=x, resamples=50) for x in ("step", "cost")
    )

    def ends(ratio: Ratio) -> tuple[float, ...]:
        return ratio.value, ratio.low, ratio.high, ratio.level, ratio.n_undefined

    assert ends(by_step) == pytest.approx(ends(by_cost), nan_ok=True)


def test_tables_that_do_not_fit_are_refused() -> None:
    frame = TWICE_AS_FAST.reset_index(drop=True)
    first = frame.index == 0

    def refused(match: str, table: pd.DataFrame, x: str = "step") -> None:
        with pytest.raises(UserError, match=match):
            curve(table, x)  # pyright: ignore[reportArgumentType]

    refused("did you mean 'step'", frame, "steps")
    refused("no column 'value'.*did you mean 'values'", frame.rename(columns={"value": "values"}))
    refused("no column 'cost'", frame.drop(columns="cost"), "cost")
    refused("no scores", frame.iloc[:0])
    refused("step == total", frame.loc[frame["step"] < N], "total")
    refused("one total, got 200, 400", frame.assign(total=np.where(frame["method"] == "fast", 200, 400)))
    refused("two scores.*base, 'p00', seed 0, step 40 of 400", pd.concat([frame, frame.loc[first]]))
    refused("outside 0..1: base", frame.assign(value=frame["value"].mask(first, 1.5)))
    refused("outside 0..1: base", frame.assign(value=frame["value"].mask(first, math.nan)))
    refused(
        "not above zero: base, 'p00', seed 0, step 40", frame.assign(cost=frame["cost"].mask(first)), "cost"
    )
    refused("another cost per step", frame.assign(cost=frame["cost"].mask(frame.index == 5, 9.0)), "cost")
    with pytest.raises(UserError, match="ask own_n"):
        ratio_to_baseline(own_totals(frame), "fast", "base", rng(), x="total")
    with pytest.raises(UserError, match="did you mean 'base'"):
        ratio_to_baseline(frame, "fast", "bose", rng())
    with pytest.raises(UserError, match="did you mean 'fast'"):
        area_under_curve(frame, rng(), baseline="fats")
    with pytest.raises(UserError, match="share"):
        ratio_to_baseline(frame, "fast", "base", rng(), share=1.5)
    with pytest.raises(UserError, match="share"):
        own_n(own_totals(frame), "fast", "base", rng(), share=0)
