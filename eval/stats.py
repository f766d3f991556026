"""Means and paired differences over prompts with bootstrap intervals; seeds are nested in prompts. No torch.

A prompt's "seeds" are its values by seed: a mapping, or a sequence whose index is the seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.config import UserError

RESAMPLES = 10_000
LEVEL = 0.95
EXACT_UP_TO = 16  # prompts whose 2^n sign patterns are enumerated; above, they are sampled

Seeds = Sequence[float] | Mapping[int, float]


@dataclass(frozen=True)
class Interval:
    """A mean with its interval and the counts behind it; `low`, `high` are nan for a single prompt."""

    value: float
    low: float
    high: float
    n_prompts: int
    n_runs: int


@dataclass(frozen=True)
class Difference(Interval):
    """Method minus baseline over the (prompt, seed) pairs that both have; `n_runs` counts those pairs."""

    win_rate: Interval  # share of pairs in which the method has the higher value, ties count half
    p_value: float  # two-sided, of the sign-flip test over prompts; not yet adjusted
    n_dropped: int  # pairs that only one of the two has

    @property
    def n_pairs(self) -> int:
        """How many pairs the difference rests on."""
        return self.n_runs


def resample(n: int, rng: np.random.Generator, resamples: int = RESAMPLES) -> np.ndarray:
    """[B, n] float64 counts: how often each of n prompts is drawn in each of B bootstrap resamples.

    Rows sum to n, so `counts_BP @ values_P / n` are the resampled means. With equal generators and equal n
    the resamples are equal. Raises ValueError for n < 1.
    """
    draws_BP = rng.integers(0, n, size=(resamples, n))
    cells_BP = draws_BP + n * np.arange(resamples)[:, None]
    return np.bincount(cells_BP.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float64)


def percentile_interval(values_B: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end, over the first axis, of the percentile interval of resampled values.

    The ends are order statistics, the outer ones, so that infinite values are values like any other. nan, a
    value that a resample does not define, counts as −inf for the lower and as +inf for the upper end: the
    interval opens where too many resamples are undefined, instead of resting on the others.
    Source: Davison & Hinkley 1997, §5.3.
    """
    k = int((1 - level) / 2 * (len(values_B) - 1))
    missing_B = np.isnan(values_B)
    low = np.partition(np.where(missing_B, -np.inf, values_B), k, axis=0)[k]
    high = np.partition(np.where(missing_B, np.inf, values_B), -1 - k, axis=0)[-1 - k]
    return low, high


def bootstrap_mean(
    values: Mapping[str, Seeds],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Mean over prompts of the mean over a prompt's seeds, with its percentile bootstrap interval.

    A prompt is drawn with all its seeds (cluster bootstrap): runs of one prompt are not independent and must
    not be resampled as if they were. Prompts are taken in sorted order: with equal generators two methods on
    the same prompts see the same resamples. Raises ValueError for no prompts or a prompt without runs.
    Source: Davison & Hinkley 1997, §3.8 and §5.3 (percentile interval).
    """
    if not values or not all(len(runs) for runs in values.values()):
        raise ValueError("bootstrap_mean needs at least one prompt and one run for each")
    means_P = np.array([np.mean(list(_by_seed(values[prompt]).values())) for prompt in sorted(values)])
    n_runs = sum(len(runs) for runs in values.values())
    return _interval(means_P, n_runs, resample(len(means_P), rng, resamples), level)


def paired_difference(
    method: Mapping[str, Seeds],
    baseline: Mapping[str, Seeds],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Difference:
    """Method minus baseline: mean over prompts of the mean over seeds, with interval, win rate and p-value.

    Runs are paired by prompt and seed, which share cameras and noise. Interval and win rate come from one
    cluster bootstrap over prompts. Raises UserError where the two have no pair in common, ValueError for a
    value that is not finite.
    """
    ours, theirs = _by_pair(method), _by_pair(baseline)
    pairs = sorted(ours.keys() & theirs.keys())
    if not pairs:
        raise UserError("no difference to the baseline: the two methods have no (prompt, seed) in common")
    gaps: dict[str, list[float]] = {}
    for pair in pairs:
        gaps.setdefault(pair[0], []).append(ours[pair] - theirs[pair])
    means_P = np.array([np.mean(gap) for gap in gaps.values()])
    if not np.isfinite(means_P).all():
        raise ValueError("paired_difference needs finite values")
    wins_P = np.array([np.mean((np.sign(gap) + 1) / 2) for gap in gaps.values()])
    counts_BP = resample(len(means_P), rng, resamples)
    mean = _interval(means_P, len(pairs), counts_BP, level)
    return Difference(
        **vars(mean),
        win_rate=_interval(wins_P, len(pairs), counts_BP, level),
        p_value=sign_flip_test(means_P, rng, resamples),
        n_dropped=len(ours.keys() | theirs.keys()) - len(pairs),
    )


def sign_flip_test(differences_P: np.ndarray, rng: np.random.Generator, resamples: int = RESAMPLES) -> float:
    """Two-sided p-value of a zero mean of n prompts' differences, by flipping their signs.

    Exchanging the two methods within a prompt flips its sign. Exact for n ≤ `EXACT_UP_TO`; else (b + 1) /
    (m + 1), with b of m random patterns at least as extreme as the data: never zero, and valid for every m.
    Source: Phipson & Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9(1), eq. 2.
    """
    n = len(differences_P)
    if exact := n <= EXACT_UP_TO:
        bits_BP = np.arange(2**n)[:, None] >> np.arange(n) & 1
    else:
        bits_BP = rng.integers(0, 2, size=(resamples, n))
    sums_B = (1.0 - 2.0 * bits_BP) @ differences_P
    slack = 1e-12 * np.abs(differences_P).sum()  # equal sums added up in another order
    extreme_B = np.abs(sums_B) >= abs(differences_P.sum()) - slack
    return float(extreme_B.mean() if exact else (extreme_B.sum() + 1) / (resamples + 1))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted for being read together: their family-wise error rate is kept, by steps down.

    The names keep their order. Raises ValueError for a p-value outside 0..1.
    Source: Holm 1979, Scand. J. Stat. 6(2).
    """
    if not all(0 <= p <= 1 for p in p_values.values()):
        raise ValueError(f"p-values lie in 0..1, got {dict(p_values)}")
    adjusted = dict(p_values)
    highest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = highest
    return adjusted


def _by_seed(runs: Seeds) -> dict[int, float]:
    return dict(sorted(runs.items() if isinstance(runs, Mapping) else enumerate(runs)))


def _by_pair(values: Mapping[str, Seeds]) -> dict[tuple[str, int], float]:
    return {(prompt, seed): x for prompt, runs in values.items() for seed, x in _by_seed(runs).items()}


def _interval(means_P: np.ndarray, n_runs: int, counts_BP: np.ndarray, level: float) -> Interval:
    n = len(means_P)
    low, high = percentile_interval(counts_BP @ means_P / n, level) if n > 1 else (np.nan, np.nan)
    return Interval(float(means_P.mean()), float(low), float(high), n, n_runs)
