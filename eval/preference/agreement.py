"""Whether raters agree with each other. No torch."""

from __future__ import annotations

import math

import krippendorff
import numpy as np
import pandas as pd

from eval.statistics.intervals import Interval, percentile_interval

RESAMPLES = 2_000
WINNERS = ("a", "b", "tie")


def votes_per_unit(votes: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """[U, V] how many raters voted a, b and tie on each pair of results, and [U] the prompt of each."""
    counts = pd.crosstab([votes["prompt"], votes["pair"]], votes["winner"])
    counts = counts.reindex(columns=list(WINNERS), fill_value=0)
    return counts.to_numpy(np.int64), counts.index.get_level_values("prompt").to_numpy()


def alpha(votes: pd.DataFrame, rng: np.random.Generator) -> Interval:
    """Krippendorff's alpha, nominal, of one question's votes: 1 is agreement, 0 is that of chance.

    Units are pairs of results, values the side that won. The interval draws whole prompts. nan where no pair
    has two votes, and where all votes say the same: then there is nothing to tell agreement from chance by.
    Source: Krippendorff 2011, Computing Krippendorff's Alpha-Reliability.
    """
    counts_UV, prompt_U = votes_per_unit(votes)
    met_U = counts_UV.sum(axis=1) > 1
    by_prompt = [counts_UV[met_U & (prompt_U == prompt)] for prompt in sorted(set(prompt_U[met_U]))]
    value = _alpha(by_prompt)
    low = high = math.nan
    if len(by_prompt) > 1 and not math.isnan(value):
        draws_BP = rng.integers(0, len(by_prompt), size=(RESAMPLES, len(by_prompt)))
        values_B = np.array([_alpha([by_prompt[p] for p in draws_P]) for draws_P in draws_BP])
        low, high = (float(end) for end in percentile_interval(values_B, len(by_prompt)))
    return Interval(value, low, high, len(by_prompt), int(counts_UV[met_U].sum()))


def _alpha(counts: list[np.ndarray]) -> float:
    units_UV = np.concatenate(counts) if counts else np.zeros((0, len(WINNERS)))
    if (units_UV.sum(axis=0) > 0).sum() < 2:
        return math.nan
    return float(krippendorff.alpha(value_counts=units_UV, level_of_measurement="nominal"))


def same_vote(votes: pd.DataFrame) -> float:
    """Share of pairs of raters who gave the same vote on the same pair of results; nan where none met."""
    counts_UV, _ = votes_per_unit(votes)
    n_U = counts_UV.sum(axis=1)
    met, same = (n_U * (n_U - 1)).sum(), (counts_UV * (counts_UV - 1)).sum()
    return float(same / met) if met else math.nan
