from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from eval.stats import (
    EXACT_UP_TO,
    bootstrap_mean,
    holm,
    paired_difference,
    percentile_interval,
    resample,
    sign_flip_test,
)
from harness.config import UserError

values = st.dictionaries(
    st.text(min_size=1, max_size=4),
    st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=4),
    min_size=2,
)


def test_agrees_with_scipy() -> None:
    rng = np.random.default_rng(3)
    runs = {f"p{i:02d}": list(rng.random(3)) for i in range(40)}
    ours = bootstrap_mean(runs, np.random.default_rng(0), resamples=20_000)
    means = [np.mean(runs[prompt]) for prompt in sorted(runs)]
    theirs = scipy_stats.bootstrap(
        (means,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours.value == pytest.approx(np.mean(means))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=4e-3)


def test_seeds_are_nested_in_prompts() -> None:
    once = {f"p{i}": [float(i % 2)] for i in range(10)}
    copied = {prompt: runs * 5 for prompt, runs in once.items()}
    a, b = (bootstrap_mean(x, np.random.default_rng(0)) for x in (once, copied))
    assert (a.low, a.high) == (b.low, b.high), "more seeds that say the same must not narrow the interval"
    assert (a.n_runs, b.n_runs, b.n_prompts) == (10, 50, 10)


def test_coverage_is_near_its_level() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(300):
        draws = (rng.random(50) < 0.6).astype(float)
        interval = bootstrap_mean({f"p{i}": [x] for i, x in enumerate(draws)}, rng, resamples=500)
        hits += interval.low <= 0.6 <= interval.high
    assert 0.90 <= hits / 300 <= 0.99


@settings(max_examples=50, deadline=None, derandomize=True)
@given(values, st.randoms())
def test_interval_holds_the_mean_and_ignores_order(runs: dict[str, list[float]], shuffle) -> None:
    one = bootstrap_mean(runs, np.random.default_rng(0), resamples=400)
    items = [(prompt, shuffle.sample(list_, len(list_))) for prompt, list_ in runs.items()]
    shuffle.shuffle(items)
    other = bootstrap_mean(dict(items), np.random.default_rng(0), resamples=400)
    assert one.value == pytest.approx(other.value) and one.low == pytest.approx(other.low)
    assert -1e-12 <= one.low <= one.high <= 1 + 1e-12
    assert one.low - 1e-9 <= one.value <= one.high + 1e-9


def test_one_prompt_has_no_interval_and_none_is_an_error() -> None:
    one = bootstrap_mean({"p": [1.0, 0.0]}, np.random.default_rng(0))
    assert one.value == 0.5 and math.isnan(one.low) and math.isnan(one.high)
    with pytest.raises(ValueError):
        bootstrap_mean({}, np.random.default_rng(0))
    with pytest.raises(ValueError):
        bootstrap_mean({"p": []}, np.random.default_rng(0))


def test_seeds_may_be_named() -> None:
    listed = {"a": [1.0, 0.0], "b": [0.5, 0.5]}
    named = {"b": {1: 0.5, 0: 0.5}, "a": {7: 0.0, 2: 1.0}}
    rng = np.random.default_rng
    assert bootstrap_mean(listed, rng(0)) == bootstrap_mean(named, rng(0))


def test_resamples_draw_as_many_prompts_and_each_as_often() -> None:
    counts_BP = resample(7, np.random.default_rng(0), 4000)
    assert counts_BP.shape == (4000, 7) and (counts_BP.sum(axis=1) == 7).all()
    assert counts_BP.mean(axis=0) == pytest.approx(np.ones(7), abs=0.06)
    assert counts_BP.var() == pytest.approx(6 / 7, abs=0.03), "multinomial: n·(1/n)·(1 − 1/n)"


def test_percentiles_agree_with_numpy_and_take_infinite_and_missing_values() -> None:
    values_B = np.random.default_rng(0).normal(size=10_000)
    assert percentile_interval(values_B) == pytest.approx(np.quantile(values_B, [0.025, 0.975]), abs=1e-3)
    many, few = values_B.copy(), values_B.copy()
    many[:300] = np.inf
    few[:100] = np.nan
    assert percentile_interval(many)[1] == np.inf and np.isfinite(percentile_interval(many)[0])
    low, high = percentile_interval(few)
    assert low < np.quantile(values_B, 0.025) and high > np.quantile(values_B, 0.975), "nan widens both ends"
    few[:300] = np.nan
    assert percentile_interval(few) == (-np.inf, np.inf)


def runs_of(values_PS: np.ndarray) -> dict[str, list[float]]:
    return {f"p{i:03d}": list(row) for i, row in enumerate(values_PS)}


def test_difference_agrees_with_scipy() -> None:
    rng = np.random.default_rng(3)
    a_PS, b_PS = rng.random((40, 3)), 0.9 * rng.random((40, 3))
    ours = paired_difference(runs_of(a_PS), runs_of(b_PS), np.random.default_rng(0), resamples=20_000)
    gaps_P = (a_PS - b_PS).mean(axis=1)
    theirs = scipy_stats.bootstrap(
        (gaps_P,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours.value == pytest.approx(gaps_P.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=4e-3)
    assert ours.win_rate.value == pytest.approx((a_PS > b_PS).mean())
    assert (ours.n_prompts, ours.n_pairs, ours.n_dropped) == (40, 120, 0)


@pytest.mark.parametrize("n", [6, 12, EXACT_UP_TO + 1, 40])
def test_sign_flips_agree_with_scipy(n: int) -> None:
    gaps_P = np.random.default_rng(n).normal(0.25, 1, n)
    exact = n <= EXACT_UP_TO
    theirs = scipy_stats.permutation_test(
        (gaps_P, np.zeros(n)),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).pvalue
    ours = sign_flip_test(gaps_P, np.random.default_rng(0), resamples=20_000)
    assert ours == pytest.approx(theirs, abs=1e-9 if exact else 0.02)


def test_equal_sums_are_equal_in_any_order() -> None:
    counts_P = np.array([5, 2, 0, -3, -3, -7, -6, -7])
    assert sign_flip_test(0.1 * counts_P, np.random.default_rng(0)) == sign_flip_test(
        counts_P, np.random.default_rng(0)
    )


def test_sampled_p_values_are_never_zero() -> None:
    gaps_P = np.ones(60)
    assert sign_flip_test(gaps_P, np.random.default_rng(0), resamples=999) == pytest.approx(1 / 1000)
    assert sign_flip_test(np.zeros(60), np.random.default_rng(0), resamples=999) == 1


def test_the_test_keeps_its_level() -> None:
    rng = np.random.default_rng(5)
    hits = sum(sign_flip_test(rng.normal(size=8), rng) <= 0.05 for _ in range(600))
    assert 0.02 <= hits / 600 <= 0.08


def test_pairs_by_prompt_and_seed_and_counts_what_it_drops() -> None:
    method = {"a": {0: 1.0, 1: 0.0, 2: 1.0}, "b": {0: 1.0}, "only here": {0: 1.0}}
    baseline = {"a": {0: 0.0, 1: 0.0}, "b": {0: 1.0, 5: 1.0}}
    found = paired_difference(method, baseline, np.random.default_rng(0))
    assert found.value == 0.25, "mean of a's (1 + 0)/2 and b's 0"
    assert found.win_rate.value == 0.625, "mean of a's (1 + ½)/2 and b's ½"
    assert (found.n_prompts, found.n_pairs, found.n_dropped) == (2, 3, 3)
    with pytest.raises(UserError, match="in common"):
        paired_difference({"a": [1.0]}, {"b": [1.0]}, np.random.default_rng(0))
    with pytest.raises(ValueError, match="finite"):
        paired_difference({"a": [math.nan]}, {"a": [1.0]}, np.random.default_rng(0))


def test_one_prompt_has_a_difference_but_no_interval_and_no_significance() -> None:
    found = paired_difference({"a": [1.0, 1.0]}, {"a": [0.0, 0.0]}, np.random.default_rng(0))
    assert found.value == 1 and math.isnan(found.low) and math.isnan(found.win_rate.high)
    assert found.p_value == 1


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 4), min_size=2, max_size=10))
def test_exchanging_the_methods_turns_the_difference_round(rows: list[tuple[float, ...]]) -> None:
    table_PS = np.array(rows)
    a, b = runs_of(table_PS[:, :2]), runs_of(table_PS[:, 2:])
    one, other = (
        paired_difference(*pair, np.random.default_rng(0), resamples=500) for pair in ((a, b), (b, a))
    )
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))
    assert one.win_rate.value + other.win_rate.value == pytest.approx(1)
    assert one.p_value == other.p_value and 0 < one.p_value <= 1
    same = paired_difference(a, a, np.random.default_rng(0), resamples=500)
    assert (same.value, same.low, same.high, same.win_rate.value, same.p_value) == (0, 0, 0, 0.5, 1)


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )  # sorted .005 .01 .03 .04, times 4 3 2 1, then never falling: .02 .03 .06 .06
    assert list(holm({"a": 0.5, "b": 0.1})) == ["a", "b"] and holm({}) == {}
    with pytest.raises(ValueError, match=r"0\.\.1"):
        holm({"a": math.nan})


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=12))
def test_holm_lies_between_raw_and_bonferroni_and_keeps_the_order(p_values: dict[str, float]) -> None:
    adjusted = holm(p_values)
    assert adjusted.keys() == p_values.keys()
    for name, p in p_values.items():
        assert p <= adjusted[name] <= min(1, len(p_values) * p)
        assert all(adjusted[name] <= adjusted[other] for other, q in p_values.items() if p <= q)
