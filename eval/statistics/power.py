"""How large a difference so many prompts × seeds can show, and how many it takes to show one. No torch.

A difference is shown where its 95 % interval is clear of zero. Its variance is that between prompts over
their number and that between the seeds of a prompt over the number of runs; Student's distribution, not
central, says how often the interval is then clear of zero.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import nctdtrinc, stdtrit

from eval.statistics.convergence import Pair, ratio_of
from eval.statistics.intervals import LEVEL, Seeds

POWERS = (0.8, 0.95)
MOST_SEEDS = 20  # a prompt's seeds beyond these bring next to nothing
STUDIES, RESAMPLES = 200, 400  # simulated for a ratio of steps, and resamples of each


@dataclass(frozen=True)
class Spread:
    """Variances of the paired difference of two methods: between prompts, and between a prompt's seeds.

    Of one seed a prompt `between` holds both: nobody knows what more seeds would bring, and it counts as
    nothing.
    """

    between: float
    within: float

    def error(self, prompts: int, seeds: float) -> float:
        """Standard error of the mean difference of so many prompts × seeds; of unequally many seeds by
        their harmonic mean."""
        return float(np.sqrt(self.between / prompts + self.within / (prompts * seeds)))


def spread_of(gaps: Mapping[str, Seeds], shares: bool = False) -> Spread:
    """The variances of these differences, prompt → seeds, by the one-way analysis of variance.

    `shares`: of hits and misses, to which one pair won and one lost are added, as their interval does
    (`difference_interval`). Raises ValueError for fewer than two prompts.
    """
    runs = [np.asarray(list(own.values() if isinstance(own, Mapping) else own)) for own in gaps.values()]
    if len(runs) < 2:
        raise ValueError("a variance between prompts takes two of them")
    sizes_P = np.array([len(own) for own in runs])
    means_P, total = np.array([own.mean() for own in runs]), int(sizes_P.sum())
    added = _of_two_more(np.concatenate(runs)) if shares else 0.0
    if total == len(runs):
        return Spread(float(means_P.var(ddof=1)) + added, 0.0)
    within = sum(float(((own - own.mean()) ** 2).sum()) for own in runs) / (total - len(runs))
    middle = float(means_P @ sizes_P) / total
    among = float(sizes_P @ (means_P - middle) ** 2) / (len(runs) - 1)
    each = (total - float((sizes_P**2).sum()) / total) / (len(runs) - 1)  # seeds of a prompt, in effect
    return Spread(max(0.0, (among - within) / each), within + added)


def _of_two_more(gaps_R: np.ndarray) -> float:
    """What a gap of 1 and one of −1 add to the variance of these."""
    return float(np.r_[gaps_R, 1.0, -1.0].var() - gaps_R.var())


def smallest(spread: Spread, prompts: int, seeds: float, power: float = POWERS[0]) -> float:
    """The smallest true difference that so many prompts × seeds show so often; nan for a single prompt."""
    if prompts < 2:
        return float("nan")
    away = nctdtrinc(prompts - 1, 1 - power, _edge(prompts))
    return float(away) * spread.error(prompts, seeds)


def prompts_for(
    difference: float, spread: Spread, seeds: int, power: float = POWERS[0], most: int = 100_000
) -> int | None:
    """The fewest prompts that show a true difference so often; None where `most` do not."""
    found = 2 + bisect_left(
        range(2, most + 1),
        True,
        key=lambda prompts: smallest(spread, prompts, seeds, power) <= abs(difference),
    )
    return found if found <= most else None


def cheapest(
    difference: float, spread: Spread, prompts: int, power: float = POWERS[0]
) -> tuple[int, int] | None:
    """Prompts × seeds of the fewest runs, of at most `prompts`, that show a true difference so often."""
    found = [
        (few, seeds)
        for seeds in range(1, MOST_SEEDS + 1)
        if (few := prompts_for(difference, spread, seeds, power, prompts)) is not None
    ]
    return min(found, key=lambda grid: (grid[0] * grid[1], grid[1]), default=None)


def within_budget(runs: int, prompts: int) -> tuple[int, int]:
    """Prompts × seeds of at most so many runs of a method that show most: prompts first, since a seed tells
    nothing of another prompt."""
    return min(runs, prompts), max(1, min(runs // prompts, MOST_SEEDS))


def ratio_power(
    x_X: np.ndarray,
    baseline: Mapping[str, np.ndarray],
    prompts: int,
    seeds: int,
    ratio: float,
    share: float,
    rng: np.random.Generator,
    studies: int = STUDIES,
) -> float:
    """How often so many prompts × seeds show that a method takes `ratio` times the baseline's steps.

    baseline: prompt → the scores of its runs, a row each, at the steps x_X. A study draws prompts, and for
    both methods runs of theirs; the method's run reaches at ratio·x what the drawn one reaches at x. Runs of
    the two are drawn from one prompt's where it has several, and else from two prompts', which shows less
    than pairs would: the power is then at least what is returned.
    """
    names = sorted(baseline)
    early_X = np.minimum(x_X / ratio, x_X[-1])
    shown = 0
    for _ in range(studies):
        ours, theirs = [], []
        for name in rng.choice(len(names), prompts):
            own = baseline[names[name]]
            other = own if len(own) > 1 else baseline[names[rng.integers(len(names))]]
            theirs.append(own[rng.integers(len(own), size=seeds)].mean(axis=0))
            drawn = other[rng.integers(len(other), size=seeds)]
            ours.append(np.mean([np.interp(early_X, np.r_[0, x_X], np.r_[0, y_X]) for y_X in drawn], axis=0))
        pair = Pair(x_X, np.array(ours), x_X, np.array(theirs), prompts * seeds, 0)
        found = ratio_of(pair, rng, share, RESAMPLES)
        shown += found.high < 1 if ratio < 1 else found.low > 1
    return shown / studies


def seeds_for_width(spread: Spread, prompts: int, half: float) -> int | None:
    """The fewest seeds of so many prompts by which the interval's half width is `half`; None beyond
    `MOST_SEEDS`.

    To add seeds until then is no test repeated until it succeeds: the rule does not look at the difference.
    """
    enough = (n for n in range(1, MOST_SEEDS + 1) if _edge(prompts) * spread.error(prompts, n) <= half)
    return next(enough, None)


def _edge(prompts: int) -> float:
    return float(stdtrit(prompts - 1, (1 + LEVEL) / 2))


def widest(spreads: Sequence[Spread]) -> Spread:
    """The one whose single pairs vary most: what is enough for it is, about, enough for all."""
    return max(spreads, key=lambda each: each.between + each.within)
