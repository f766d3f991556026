from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from eval.statistics import bench_coverage
from eval.statistics.bench_coverage import BAR, Case, cases, coverage
from eval.statistics.intervals import (
    EXACT_UP_TO,
    LEVEL,
    SHAPED,
    agresti_coull,
    bootstrap_mean,
    difference_interval,
    effective_n,
    holm,
    mean_interval,
    paired_difference,
    percentile_interval,
    prompts_to_decide,
    resample,
    share_mean,
    sign_flip_test,
    student_interval,
)
from harness.config import UserError

values = st.dictionaries(
    st.text(min_size=1, max_size=4),
    st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=4),
    min_size=2,
)


# ---- coverage: the reduced form of `harness bench coverage`, whose table is in docs/protocol.md

STUDIES = 400
HARD = [case for case in cases((0.05, 0.5, 0.9, 0.98)) if case.label != "log-normal, sd 1"]


@pytest.mark.parametrize("prompts", [6, 24])
@pytest.mark.parametrize("case", HARD, ids=lambda case: f"{case.kind}, {case.label}")
def test_intervals_hold_the_truth_as_often_as_the_table_says(case: Case, prompts: int) -> None:
    found = coverage(case, prompts, (1, 3), STUDIES)
    fewest = scipy_stats.binom.ppf(1e-4, STUDIES, case.bar) / STUDIES
    assert fewest <= min(found), (case.kind, case.label, found)
    assert np.mean(found) >= BAR or case.bar < BAR


def test_the_percentile_bootstrap_would_not_pass() -> None:
    [rare] = [case for case in cases((0.05,)) if case.kind == "share"]
    assert max(coverage(rare, 6, (1,), STUDIES, compare=True)) < 0.5 < min(coverage(rare, 6, (1,), STUDIES))


@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case.kind}, {case.label}")
def test_populations_have_the_mean_they_are_said_to_have(case: Case) -> None:
    if case.truth is None:
        assert math.isfinite(bench_coverage.truth_of(case))
        return
    for draw in case.draws:
        sample_TPS = draw(np.random.default_rng(3), (1, 20_000, 2))
        error = sample_TPS.mean(axis=2).std() / math.sqrt(20_000)
        assert sample_TPS.mean() == pytest.approx(case.truth, abs=5 * error)


def test_the_protocol_has_a_row_for_each_case() -> None:
    page = (Path(bench_coverage.__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
    assert "| " + " | ".join(bench_coverage.COLUMNS) + " |" in page
    for case in cases():
        assert f"| {case.kind} | {case.label} | " in page


# ---- shares


def test_six_of_six_are_no_certainty() -> None:
    found = share_mean({f"p{i}": [1.0] for i in range(6)})
    assert (found.value, found.low, found.high) == pytest.approx((1, 0.61, 1), abs=5e-3)
    wilson = scipy_stats.binomtest(6, 6).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high))
    assert share_mean({f"p{i}": [1.0] * 5 for i in range(6)}).low == found.low, "equal seeds prove no more"


@given(st.integers(1, 60), st.data())
def test_agresti_coull_mirrors_and_holds_wilsons(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    low, high = agresti_coull(hits / n, n)
    wilson = scipy_stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert low <= wilson.low + 1e-12 and high >= wilson.high - 1e-12
    assert agresti_coull(1 - hits / n, n) == pytest.approx((1 - high, 1 - low))


tables = st.integers(2, 8).flatmap(
    lambda seeds: st.lists(
        st.lists(st.sampled_from([0.0, 1.0]), min_size=seeds, max_size=seeds), min_size=2, max_size=12
    )
)


@given(tables)
def test_a_share_is_worth_from_its_prompts_to_its_runs(rows: list[list[float]]) -> None:
    hits_PS = np.array(rows)
    share, P = hits_PS.mean(), len(hits_PS)
    n = effective_n(share * (1 - share), hits_PS.mean(axis=1).var(ddof=1), hits_PS.var(), P, hits_PS.size)
    assert P <= n <= hits_PS.size + 1e-9
    same = effective_n(share * (1 - share), np.array([0, 1] * P).var(ddof=1), 0.25, 2 * P, 2 * P * 99)
    assert same == 2 * P, "prompts of which each is always right or always wrong"


@given(tables)
def test_a_share_lies_in_its_interval(rows: list[list[float]]) -> None:
    found = share_mean({f"p{i}": row for i, row in enumerate(rows)})
    assert 0 <= found.low <= found.value <= found.high <= 1 and found.high - found.low > 0.05
    mirrored = share_mean({f"p{i}": [1 - x for x in row] for i, row in enumerate(rows)})
    assert (found.low, found.high) == pytest.approx((1 - mirrored.high, 1 - mirrored.low))


def test_what_is_no_share_is_refused() -> None:
    with pytest.raises(ValueError, match="0…1, got 0 to 2"):
        share_mean({"a": [0.0], "b": [2.0]})
    assert share_mean({"a": [1 + 1e-12], "b": [1.0]}).high == 1, "areas are added up"
    assert math.isnan(share_mean({"a": [1.0, 0.0]}).low)


# ---- means of other values


def test_agrees_with_scipy() -> None:
    rng = np.random.default_rng(3)
    runs = {f"p{i:02d}": list(rng.random(3)) for i in range(40)}
    ours = bootstrap_mean(runs, np.random.default_rng(0), resamples=20_000)
    means = [np.mean(runs[prompt]) for prompt in sorted(runs)]
    tail = scipy_stats.norm.cdf(math.sqrt(40 / 39) * scipy_stats.t.ppf(0.025, 39))
    theirs = scipy_stats.bootstrap(
        (means,),
        np.mean,
        n_resamples=20_000,
        confidence_level=float(1 - 2 * tail),
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert ours.value == pytest.approx(np.mean(means))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=4e-3)


@pytest.mark.parametrize("n", [2, SHAPED - 1, 30])
def test_student_agrees_with_scipy(n: int) -> None:
    values_P = np.random.default_rng(n).normal(size=n)
    theirs = scipy_stats.ttest_1samp(values_P, 0).confidence_interval(LEVEL)
    assert student_interval(values_P) == pytest.approx((theirs.low, theirs.high))
    if n < SHAPED:
        counts_BP = resample(n, np.random.default_rng(0), 50)
        assert mean_interval(values_P, counts_BP) == student_interval(values_P)


def test_what_does_not_vary_has_no_interval() -> None:
    for n in (1, 4, 20):
        found = bootstrap_mean({f"p{i}": [0.1, 0.3] for i in range(n)}, np.random.default_rng(0), 100)
        assert found.value == pytest.approx(0.2) and math.isnan(found.low) and math.isnan(found.high)


def test_seeds_are_nested_in_prompts() -> None:
    once = {f"p{i}": [float(i % 2)] for i in range(10)}
    copied = {prompt: runs * 5 for prompt, runs in once.items()}
    a, b = (bootstrap_mean(x, np.random.default_rng(0)) for x in (once, copied))
    assert (a.low, a.high) == (b.low, b.high), "more seeds that say the same must not narrow the interval"
    assert (a.n_runs, b.n_runs, b.n_prompts) == (10, 50, 10)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(values, st.randoms())
def test_interval_holds_the_mean_and_ignores_order(runs: dict[str, list[float]], shuffle) -> None:
    one = bootstrap_mean(runs, np.random.default_rng(0), resamples=400)
    items = [(prompt, shuffle.sample(list_, len(list_))) for prompt, list_ in runs.items()]
    shuffle.shuffle(items)
    other = bootstrap_mean(dict(items), np.random.default_rng(0), resamples=400)
    assert one.value == pytest.approx(other.value) and one.low == pytest.approx(other.low, nan_ok=True)
    assert math.isnan(one.low) or one.low - 1e-9 <= one.value <= one.high + 1e-9


def test_one_prompt_has_no_interval_and_none_is_an_error() -> None:
    one = bootstrap_mean({"p": [1.0, 0.0]}, np.random.default_rng(0))
    assert one.value == 0.5 and math.isnan(one.low) and math.isnan(one.high)
    with pytest.raises(ValueError):
        bootstrap_mean({}, np.random.default_rng(0))
    with pytest.raises(ValueError):
        bootstrap_mean({"p": []}, np.random.default_rng(0))


def test_seeds_may_be_named() -> None:
    listed = {"a": [1.0, 0.0], "b": [0.5, 0.6]}
    named = {"b": {1: 0.6, 0: 0.5}, "a": {7: 0.0, 2: 1.0}}
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
    theirs = scipy_stats.ttest_rel(a_PS.mean(axis=1), b_PS.mean(axis=1)).confidence_interval(LEVEL)
    assert ours.value == pytest.approx((a_PS - b_PS).mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert (ours.wins, ours.ties, ours.losses) == ((a_PS > b_PS).sum(), 0, (a_PS < b_PS).sum())
    assert (ours.n_prompts, ours.n_pairs, ours.n_dropped) == (40, 120, 0)


def test_a_difference_of_shares_by_hand() -> None:
    # Bonett & Price: 8 pairs won, 2 lost of 40, and one of each more.
    gaps_P = np.array([1.0] * 8 + [-1.0] * 2 + [0.0] * 30)
    won, lost, n = 9 / 42, 3 / 42, 42
    half = scipy_stats.norm.ppf(0.975) * math.sqrt((won + lost - (won - lost) ** 2) / n)
    low, high = difference_interval(gaps_P, np.square(gaps_P).mean(), 40)
    assert (low, high) == pytest.approx((won - lost - half, won - lost + half), rel=2e-3)


def test_nothing_but_ties_is_no_certainty() -> None:
    same = {f"p{i}": [1.0] for i in range(6)}
    found = paired_difference(same, same, np.random.default_rng(0), shares=True)
    assert (found.value, found.wins, found.ties, found.losses) == (0, 0, 6, 0)
    assert -0.4 < found.low < -0.3 and 0.3 < found.high < 0.4


@pytest.mark.parametrize("comparisons", [1, 2, 10])
def test_the_prompts_that_decide_are_the_fewest(comparisons: int) -> None:
    n = prompts_to_decide(comparisons)
    p_values = [sign_flip_test(np.ones(k), np.random.default_rng(0)) * comparisons for k in (n, n - 1)]
    assert p_values[0] <= 1 - LEVEL < p_values[1]


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


@given(st.lists(st.integers(-6, 6), max_size=9), st.integers(1, 6), st.integers(0, 30))
def test_shares_are_flipped_exactly_however_many_are_tied(counts: list[int], seeds: int, ties: int) -> None:
    gaps_P = np.array([*counts, *[0] * ties]) / seeds
    enumerated = sign_flip_test(np.pi * np.array(counts, dtype=float), np.random.default_rng(0))
    assert sign_flip_test(gaps_P, np.random.default_rng(0)) == pytest.approx(enumerated, abs=1e-12)


def test_ten_prompts_won_and_none_lost_of_24_are_told_by_their_ten_signs() -> None:
    gaps_P = np.array([*[1.0] * 4, *[0.5] * 6, *[0.0] * 14])
    assert sign_flip_test(gaps_P, np.random.default_rng(0)) == pytest.approx(2 / 1024)
    assert sign_flip_test(np.ones(153), np.random.default_rng(0)) == pytest.approx(2.0**-152)


def test_sampled_p_values_are_never_zero() -> None:
    gaps_P = np.linspace(1, 2, 61)[1:] * np.pi
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
    assert (found.wins, found.ties, found.losses) == (1, 2, 0)
    assert (found.n_prompts, found.n_pairs, found.n_dropped) == (2, 3, 3)
    with pytest.raises(UserError, match="in common"):
        paired_difference({"a": [1.0]}, {"b": [1.0]}, np.random.default_rng(0))
    with pytest.raises(ValueError, match="finite"):
        paired_difference({"a": [math.nan]}, {"a": [1.0]}, np.random.default_rng(0))


def test_one_prompt_has_a_difference_but_no_interval_and_no_significance() -> None:
    found = paired_difference({"a": [1.0, 1.0]}, {"a": [0.0, 0.0]}, np.random.default_rng(0))
    assert found.value == 1 and math.isnan(found.low) and math.isnan(found.high)
    assert found.p_value == 1


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 4), min_size=2, max_size=10))
def test_exchanging_the_methods_turns_the_difference_round(rows: list[tuple[float, ...]]) -> None:
    table_PS = np.array(rows)
    a, b = runs_of(table_PS[:, :2]), runs_of(table_PS[:, 2:])
    for shares in (True, False):
        one, other, same = (
            paired_difference(*pair, np.random.default_rng(0), resamples=500, shares=shares)
            for pair in ((a, b), (b, a), (a, a))
        )
        ends = (one.value, one.low, one.high)
        assert ends == pytest.approx((-other.value, -other.high, -other.low), nan_ok=True)
        assert (one.wins, one.ties, one.losses) == (other.losses, other.ties, other.wins)
        assert one.p_value == other.p_value and 0 < one.p_value <= 1
        assert (same.value, same.ties, same.p_value) == (0, 2 * len(rows), 1)
        assert not shares or -1 <= one.low <= one.value <= one.high <= 1


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
