"""Means and paired differences over prompts with 95 % intervals; seeds are nested in prompts. No torch.

A prompt's "seeds" are its values by seed: a mapping, or a sequence whose index is the seed. Which interval
belongs to which kind of number was chosen by simulation: `harness bench coverage` prints how often each holds
the truth, and docs/protocol.md keeps its table.

- `share_mean`: values in 0…1, such as R-Precision or an area under its curve. Agresti and Coull's interval
  with an effective number of prompts.
- `bootstrap_mean`: any other values. Hesterberg's expanded percentile bootstrap.
- `paired_difference`: of shares, Bonett and Price's interval with an effective number of pairs; of other
  values, Student's.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeVar

import numpy as np
from scipy.special import ndtr, stdtrit

from harness.config import UserError

VERSION = 2  # of the intervals; raise it when any end below can change
RESAMPLES = 10_000
LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
UNITS = 60  # whole parts of a share: of up to six seeds, and of what is left where some are missing
MOST = 100_000  # of such parts in all
EXACT_UP_TO = 16  # prompts whose 2^n sign patterns are enumerated; above, they are sampled
ROUNDING = 1e-9  # of a share that was added up, such as an area
SHAPED = 6  # values below which resamples say nothing of a distribution's shape

K = TypeVar("K", bound=Hashable)
Seeds = Sequence[float] | Mapping[int, float]
Ends = tuple[np.ndarray, np.ndarray]  # lower and upper


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

    wins: int  # pairs in which the method has the higher value
    ties: int
    losses: int
    p_value: float  # two-sided, of the sign-flip test over prompts; not yet adjusted
    n_dropped: int  # pairs that only one of the two has

    @property
    def n_pairs(self) -> int:
        """How many pairs the difference rests on."""
        return self.n_runs


def effective_n(
    spread: np.ndarray | float, between: np.ndarray | float, within: np.ndarray | float, P: int, runs: float
) -> np.ndarray:
    """How many independent draws a mean over P prompts is worth: from P, where a prompt's seeds all say the
    same, to the number of runs, where prompts do not differ.

    `spread` is the variance of a single draw at its largest, `between` that of the prompts' means (P − 1 in
    its denominator), `within` that of single runs. The variance of the mean is the larger of between/P and
    within/runs, drawn towards the largest possible, spread/P, by one of P parts: few prompts that happen to
    agree do not prove that prompts agree. The spread over that variance is n; P where there is no spread.
    """
    variance = np.maximum(np.asarray(between) / P, np.asarray(within) / runs)
    variance = ((P - 1) * variance + np.asarray(spread) / P) / P
    n = np.divide(spread, variance, out=np.full(np.shape(variance), float(P)), where=variance > 0)
    return np.maximum(n, P)


def agresti_coull(share: np.ndarray | float, n: np.ndarray | float) -> Ends:
    """Lower and upper end of a share of n independent draws, n real; Wilson's ends where it is 0 or 1.

    Both have one centre. Wilson's is a little narrower and holds rates below .05 too seldom; where all or no
    draws are hits it is the exact one-sided bound: 6 of 6 give [.61, 1].
    Source: Agresti & Coull 1998, Am. Stat. 52(2); Wilson 1927, JASA 22(158).
    """
    share, z = np.asarray(share, dtype=np.float64), Z
    total = n + z * z
    middle = (n * share + z * z / 2) / total
    half = np.where(
        (share > 0) & (share < 1), z * np.sqrt(middle * (1 - middle) / total), z * z / (2 * total)
    )
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)


def share_interval(means_P: np.ndarray, within: np.ndarray | float, runs: int) -> Ends:
    """Ends for the mean of prompts' means in 0…1, over the first axis; nan for a single prompt.

    `within`: variance of single runs, `runs` of them. It is `agresti_coull` of `effective_n`; a value in 0…1
    varies no more than a hit or miss of the same mean does, so it serves shares of views and areas, too.
    """
    P = len(means_P)
    mean = means_P.mean(axis=0)
    if P < 2:
        return np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    n = effective_n(mean * (1 - mean), means_P.var(axis=0, ddof=1), within, P, runs)
    return agresti_coull(mean, n)


def share_mean(values: Mapping[str, Seeds]) -> Interval:
    """Mean over prompts of the mean over a prompt's seeds, of values in 0…1, with its `share_interval`.

    Raises ValueError for no prompts, a prompt without runs, and a value outside 0…1.
    """
    means_P, runs_R = _flat(values)
    if not ((runs_R >= -ROUNDING) & (runs_R <= 1 + ROUNDING)).all():
        raise ValueError(f"shares lie in 0…1, got {runs_R.min():g} to {runs_R.max():g}")
    means_P = means_P.clip(0, 1)
    low, high = share_interval(means_P, runs_R.var(), len(runs_R))
    return Interval(float(means_P.mean()), float(low), float(high), len(means_P), len(runs_R))


def difference_interval(gaps_P: np.ndarray, square: np.ndarray | float, runs: int) -> Ends:
    """Ends for the mean, over the first axis, of prompts' mean differences of two shares, in −1…1; nan for a
    single prompt. `square`: the mean square of the pairs' differences, `runs` of them.

    Bonett and Price's: one pair won and one lost are added to n, here the `effective_n`. With nothing but
    ties it has a width all the same. Source: Bonett & Price 2012, J. Educ. Behav. Stat. 37(4).
    """
    P = len(gaps_P)
    mean = gaps_P.mean(axis=0)
    if P < 2:
        return np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    spread = np.maximum(square - mean**2, 0)
    n = effective_n(spread, gaps_P.var(axis=0, ddof=1), spread, P, runs)
    middle = n * mean / (n + 2)
    half = Z * np.sqrt(((n * square + 2) / (n + 2) - middle**2) / (n + 2))
    return np.clip(middle - half, -1, 1), np.clip(middle + half, -1, 1)


def student_interval(values_P: np.ndarray) -> Ends:
    """Ends of Student's interval of a mean over the first axis; nan for one value and where none varies."""
    P = len(values_P)
    mean = values_P.mean(axis=0)
    if P < 2:
        return np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    deviation = values_P.std(axis=0, ddof=1)
    flat = deviation <= 1e-12 * np.abs(values_P).max(axis=0)  # equal values, up to rounding
    half = np.where(flat, np.nan, stdtrit(P - 1, (1 + LEVEL) / 2) * deviation / np.sqrt(P))
    return mean - half, mean + half


def jackknife_interval(value: float, without_P: np.ndarray) -> tuple[float, float]:
    """Student's interval of a statistic of P prompts that is no mean of theirs, from its values without each
    of them; nan for fewer than two.

    Source: Efron & Stein 1981, Ann. Stat. 9(3); of U-statistics Arvesen 1969, Ann. Math. Stat. 40(6).
    """
    P = len(without_P)
    low, high = student_interval(P * value - (P - 1) * np.asarray(without_P, dtype=np.float64))
    return value - float(high - low) / 2, value + float(high - low) / 2


def resample(n: int, rng: np.random.Generator, resamples: int = RESAMPLES) -> np.ndarray:
    """[B, n] float64 counts: how often each of n prompts is drawn in each of B bootstrap resamples.

    Rows sum to n, so `counts_BP @ values_P / n` are the resampled means. With equal generators and equal n
    the resamples are equal. Raises ValueError for n < 1.
    """
    draws_BP = rng.integers(0, n, size=(resamples, n))
    cells_BP = draws_BP + n * np.arange(resamples)[:, None]
    return np.bincount(cells_BP.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float64)


def percentile_interval(values_B: np.ndarray, n: int | None = None) -> Ends:
    """Lower and upper end, over the first axis, of the percentile interval of resampled values.

    The ends are order statistics, the outer ones, so that infinite values are values like any other. nan, a
    value that a resample does not define, counts as −inf for the lower and as +inf for the upper end: the
    interval opens where too many resamples are undefined, instead of resting on the others.

    `n`, the number of what was resampled, expands it: a bootstrap of n is too narrow by √((n−1)/n) and by
    what Student's t exceeds the normal quantile. Source: Davison & Hinkley 1997, §5.3; Hesterberg 2015, What
    Teachers Should Know About the Bootstrap, Am. Stat. 69(4), §5.3.
    """
    tail = (1 - LEVEL) / 2
    if n is not None:
        tail = float(ndtr(stdtrit(n - 1, tail) * np.sqrt(n / (n - 1))))
    k = int(tail * (len(values_B) - 1))
    missing_B = np.isnan(values_B)
    low = np.partition(np.where(missing_B, -np.inf, values_B), k, axis=0)[k]
    high = np.partition(np.where(missing_B, np.inf, values_B), -1 - k, axis=0)[-1 - k]
    return low, high


def mean_interval(values_P: np.ndarray, counts_BP: np.ndarray) -> Ends:
    """Ends for the mean of P values, over the first axis, by the expanded percentiles of its resamples.

    Below `SHAPED` values, whose resamples cannot leave their range, Student's. nan where nothing varies.
    """
    P = len(values_P)
    if P < SHAPED:
        return student_interval(values_P)
    ends = percentile_interval(counts_BP @ values_P / P, P)
    flat = np.isnan(student_interval(values_P)[0])
    low, high = (np.where(flat, np.nan, end) for end in ends)
    return low, high


def bootstrap_mean(
    values: Mapping[str, Seeds], rng: np.random.Generator, resamples: int = RESAMPLES
) -> Interval:
    """Mean over prompts of the mean over a prompt's seeds, with its `mean_interval`; of values in 0…1 take
    `share_mean`.

    A prompt is drawn with all its seeds (cluster bootstrap): runs of one prompt are not independent and must
    not be resampled as if they were. Prompts are taken in sorted order: with equal generators two methods on
    the same prompts see the same resamples. Raises ValueError for no prompts or a prompt without runs.
    Source: Davison & Hinkley 1997, §3.8.
    """
    means_P, runs_R = _flat(values)
    low, high = mean_interval(means_P, resample(len(means_P), rng, resamples))
    return Interval(float(means_P.mean()), float(low), float(high), len(means_P), len(runs_R))


def paired(
    method: Mapping[str, Seeds], baseline: Mapping[str, Seeds]
) -> tuple[dict[str, dict[int, float]], int]:
    """Method minus baseline, prompt → seed, of the (prompt, seed) pairs that both have; how many one lacks.

    Raises UserError where they have no pair in common.
    """
    ours, theirs = _by_pair(method), _by_pair(baseline)
    pairs = sorted(ours.keys() & theirs.keys())
    if not pairs:
        raise UserError("no difference to the baseline: the two methods have no (prompt, seed) in common")
    gaps: dict[str, dict[int, float]] = {}
    for prompt, seed in pairs:
        gaps.setdefault(prompt, {})[seed] = ours[prompt, seed] - theirs[prompt, seed]
    return gaps, len(ours.keys() | theirs.keys()) - len(pairs)


def paired_difference(
    method: Mapping[str, Seeds],
    baseline: Mapping[str, Seeds],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    *,
    shares: bool = False,
) -> Difference:
    """Method minus baseline: mean over prompts of the mean over seeds, with interval, counts and p-value.

    Runs are paired by prompt and seed, which share cameras and noise. `shares`: the values are hits and
    misses, or shares of them; their interval is `difference_interval`, that of other values Student's. Raises
    UserError where the two have no pair in common, ValueError for a value that is not finite.
    """
    gaps, n_dropped = paired(method, baseline)
    n_pairs = sum(map(len, gaps.values()))
    means_P, gaps_R = _flat(gaps)
    if not np.isfinite(means_P).all():
        raise ValueError("paired_difference needs finite values")
    if shares:
        low, high = difference_interval(means_P, np.square(gaps_R).mean(), n_pairs)
    else:
        low, high = student_interval(means_P)
    return Difference(
        float(means_P.mean()),
        float(low),
        float(high),
        n_prompts=len(means_P),
        n_runs=n_pairs,
        wins=int((gaps_R > 0).sum()),
        ties=int((gaps_R == 0).sum()),
        losses=int((gaps_R < 0).sum()),
        p_value=sign_flip_test(means_P, rng, resamples),
        n_dropped=n_dropped,
    )


def difference_if_paired(
    method: Mapping[str, Seeds],
    baseline: Mapping[str, Seeds],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    *,
    shares: bool = False,
) -> Difference | None:
    """`paired_difference` for a row among others; None where the two have no pair in common."""
    if not _by_pair(method).keys() & _by_pair(baseline).keys():
        return None
    return paired_difference(method, baseline, rng, resamples, shares=shares)


def sign_flip_test(differences_P: np.ndarray, rng: np.random.Generator, resamples: int = RESAMPLES) -> float:
    """Two-sided p-value of a zero mean of n prompts' differences, by flipping their signs.

    Exchanging the two methods within a prompt flips its sign, if it has one. Exact for multiples of a common
    unit, as shares of a few seeds are, and where n ≤ `EXACT_UP_TO` are not 0; else (b + 1) / (m + 1), with b
    of m random patterns at least as extreme as the data: never zero, and valid for every m.
    Source: Phipson & Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9(1), eq. 2.
    """
    signed_P = differences_P[differences_P != 0]
    n = len(signed_P)
    if (whole_P := _whole(signed_P)) is not None:
        return _flipped(whole_P)
    if exact := n <= EXACT_UP_TO:
        bits_BP = np.arange(2**n)[:, None] >> np.arange(n) & 1
    else:
        bits_BP = rng.integers(0, 2, size=(resamples, n))
    sums_B = (1.0 - 2.0 * bits_BP) @ signed_P
    slack = 1e-12 * np.abs(signed_P).sum()  # equal sums added up in another order
    extreme_B = np.abs(sums_B) >= abs(signed_P.sum()) - slack
    return float(extreme_B.mean() if exact else (extreme_B.sum() + 1) / (resamples + 1))


def _whole(values_P: np.ndarray) -> np.ndarray | None:
    """The values in the largest unit 1/k that all are multiples of; None where none with k ≤ `UNITS` is one,
    or the values are no shares but far larger."""
    for k in range(1, UNITS + 1):
        whole_P = np.rint(k * values_P)
        if np.abs(whole_P).sum() <= MOST and np.allclose(k * values_P, whole_P, rtol=0, atol=1e-9):
            return whole_P.astype(int)
    return None


def _flipped(whole_P: np.ndarray) -> float:
    """The chance that whole numbers of random signs add up to a sum as far from 0 as theirs."""
    chance_S = np.ones(1)  # of the sums −Σ|a|, …, Σ|a|
    for a in np.abs(whole_P):
        chance_S = (np.pad(chance_S, (0, 2 * a)) + np.pad(chance_S, (2 * a, 0))) / 2
    sums_S = np.arange(len(chance_S)) - len(chance_S) // 2
    return min(1.0, float(chance_S[np.abs(sums_S) >= abs(whole_P.sum())].sum()))


def holm(p_values: Mapping[K, float]) -> dict[K, float]:
    """p-values adjusted for being read together: their family-wise error rate is kept, by steps down.

    The keys keep their order. Raises ValueError for a p-value outside 0..1.
    Source: Holm 1979, Scand. J. Stat. 6(2).
    """
    if not all(0 <= p <= 1 for p in p_values.values()):
        raise ValueError(f"p-values lie in 0..1, got {dict(p_values)}")
    adjusted = dict(p_values)
    highest = 0.0
    for rank, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[key]))
        adjusted[key] = highest
    return adjusted


def prompts_to_decide(comparisons: int) -> int:
    """The fewest prompts won, none lost, by which the sign-flip test calls one of so many comparisons.

    n prompts that all say the same have the p-value 2^(1 − n), which Holm multiplies by the comparisons.
    """
    return int(np.ceil(1 + np.log2(comparisons / (1 - LEVEL)) - 1e-9))


def _by_seed(runs: Seeds) -> dict[int, float]:
    return dict(sorted(runs.items() if isinstance(runs, Mapping) else enumerate(runs)))


def _by_pair(values: Mapping[str, Seeds]) -> dict[tuple[str, int], float]:
    return {(prompt, seed): x for prompt, runs in values.items() for seed, x in _by_seed(runs).items()}


def _flat(values: Mapping[str, Seeds]) -> tuple[np.ndarray, np.ndarray]:
    """[P] the means of prompts, sorted, and [R] all their runs."""
    if not values or not all(len(runs) for runs in values.values()):
        raise ValueError("a mean needs at least one prompt and one run for each")
    runs = [list(_by_seed(values[prompt]).values()) for prompt in sorted(values)]
    return np.array([np.mean(own) for own in runs]), np.concatenate(runs).astype(np.float64)
