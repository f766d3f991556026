"""Votes counted as wins of one method over another, and win rates with their intervals. No torch.

Shape suffixes: K methods, R raters, P prompts, B bootstrap resamples.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from eval.statistics.intervals import (
    RESAMPLES,
    Interval,
    Z,
    agresti_coull,
    effective_n,
    percentile_interval,
    resample,
)

Axis = Literal["raters", "prompts"]
BOTH: tuple[Axis, ...] = ("raters", "prompts")
SCORE = {"a": 1.0, "b": 0.0, "tie": 0.5}  # of a pair's first method


def places(values: Iterable[str], names: Sequence[str]) -> np.ndarray:
    """The place of each value among the names, int64."""
    at = {name: place for place, name in enumerate(names)}
    return np.array([at[value] for value in values], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Duels:
    """The votes of one question: `wins_KKRP[i, j, r, p]` is how often rater r chose method i over method j on
    prompt p, a tie being half a win of each."""

    methods: tuple[str, ...]
    raters: tuple[str, ...]
    prompts: tuple[str, ...]
    wins_KKRP: np.ndarray

    @classmethod
    def of(cls, votes: pd.DataFrame, methods: Sequence[str]) -> Duels:
        """Counts votes with the columns rater, prompt, method_a, method_b and winner ('a', 'b' or 'tie')."""
        raters, prompts = sorted(set(votes["rater"])), sorted(set(votes["prompt"]))
        a, b = places(votes["method_a"], methods), places(votes["method_b"], methods)
        r, p = places(votes["rater"], raters), places(votes["prompt"], prompts)
        score = np.array([SCORE[winner] for winner in votes["winner"]], dtype=np.float64)
        wins_KKRP = np.zeros((len(methods), len(methods), len(raters), len(prompts)))
        np.add.at(wins_KKRP, (a, b, r, p), score)
        np.add.at(wins_KKRP, (b, a, r, p), 1 - score)
        return cls(tuple(methods), tuple(raters), tuple(prompts), wins_KKRP)

    @property
    def wins_KK(self) -> np.ndarray:
        """Wins of i over j, over all raters and prompts."""
        return self.wins_KKRP.sum(axis=(2, 3))

    def resampled(
        self, rng: np.random.Generator, over: Collection[Axis] = BOTH, resamples: int = RESAMPLES
    ) -> np.ndarray:
        """[B, K, K] wins in bootstrap resamples that draw whole raters, whole prompts, or both independently.

        With both, a vote counts as often as its rater times its prompt was drawn: the pigeonhole bootstrap,
        which is mildly conservative. All nan where an axis to be drawn from has one member: it says nothing
        of how much others would differ.
        Source: Owen 2007, Ann. Appl. Stat. 1(2); Owen & Eckles 2012, Ann. Appl. Stat. 6(3).
        """
        K, _, R, P = self.wins_KKRP.shape
        if not all({"raters": R, "prompts": P}[axis] > 1 for axis in over):
            return np.full((resamples, K, K), np.nan)
        one = np.ones((1, 1))
        counts_BR = resample(R, rng, resamples) if "raters" in over else one.repeat(R, axis=1)
        counts_BP = resample(P, rng, resamples) if "prompts" in over else one.repeat(P, axis=1)
        wins_BKK = np.zeros((resamples, K, K))
        for i, j in zip(*np.nonzero(self.wins_KK), strict=True):
            wins_BKK[:, i, j] = ((counts_BR @ self.wins_KKRP[i, j]) * counts_BP).sum(axis=1)
        return wins_BKK


def win_rate(
    duels: Duels,
    method: str,
    other: str,
    rng: np.random.Generator,
    over: Collection[Axis] = BOTH,
    resamples: int = RESAMPLES,
) -> Interval:
    """Share of votes for `method` over `other`, ties half, every vote alike, with its interval.

    Over raters and prompts its ends are percentiles. Over one of the two, and where all resamples say the
    same, percentiles are too narrow: there it is `agresti_coull` of the `effective_n` of raters or prompts,
    whichever are fewer. nan where there are no votes, and for the ends where an axis drawn from has one
    member. A resample without a vote between the two is undefined, and opens the interval of percentiles.
    """
    i, j = duels.methods.index(method), duels.methods.index(other)
    pair = Duels((method, other), duels.raters, duels.prompts, duels.wins_KKRP[np.ix_([i, j], [i, j])])
    won, lost = pair.wins_KK[0, 1], pair.wins_KK[1, 0]
    cells_RP = pair.wins_KKRP[0, 1] + pair.wins_KKRP[1, 0]
    n_prompts, n_votes = int((cells_RP.sum(axis=0) > 0).sum()), round(won + lost)
    if not n_votes:
        return Interval(math.nan, math.nan, math.nan, 0, 0)
    wins_BKK = pair.resampled(rng, over, resamples)
    low = high = math.nan
    if not np.isnan(wins_BKK).any():
        with np.errstate(invalid="ignore"):
            shares_B = wins_BKK[:, 0, 1] / (wins_BKK[:, 0, 1] + wins_BKK[:, 1, 0])
        ends = percentile_interval(shares_B)
        if len(over) == 1 or np.ptp(shares_B) == 0:
            share = won / (won + lost)
            m = min({"raters": len(duels.raters), "prompts": len(duels.prompts)}[axis] for axis in over)
            # a bootstrap of m is too narrow by (m − 1)/m
            between = float(np.nanvar(shares_B)) * m * m / (m - 1)
            ends = agresti_coull(share, effective_n(share * (1 - share), between, 0.0, m, n_votes))
        low, high = (float(end) for end in ends)
    return Interval(won / (won + lost), max(low, 0.0), min(high, 1.0), n_prompts, n_votes)


def wilson(wins: float, votes: int) -> tuple[float, float]:
    """Wilson's score interval of a share, as if every vote came from another rater on another prompt.

    `wins` may hold halves: a tie varies less than a win or a loss, so the interval is then a little too wide.
    Raises ValueError for no votes and for wins outside 0..votes. Source: Wilson 1927, JASA 22(158).
    """
    if not 0 <= wins <= votes or votes < 1:
        raise ValueError(f"{wins} wins of {votes} votes")
    share, shrink = wins / votes, 1 + Z * Z / votes
    middle = (share + Z * Z / (2 * votes)) / shrink
    half = Z / shrink * math.sqrt(share * (1 - share) / votes + (Z / (2 * votes)) ** 2)
    return max(middle - half, 0.0), min(middle + half, 1.0)
