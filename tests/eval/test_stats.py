from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from eval.stats import bootstrap_mean

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


@settings(max_examples=50, deadline=None)
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
