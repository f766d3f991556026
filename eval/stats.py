"""Means over prompts with bootstrap intervals; seeds are nested in prompts. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with its interval and the counts behind it; `low`, `high` are nan for a single prompt."""

    value: float
    low: float
    high: float
    n_prompts: int
    n_runs: int


def bootstrap_mean(
    values: Mapping[str, Sequence[float]],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Mean over prompts of the mean over a prompt's seeds, with its percentile bootstrap interval.

    `values` maps a prompt to one number per run. A prompt is drawn with all its seeds (cluster bootstrap):
    runs of one prompt are not independent and must not be resampled as if they were. Prompts are taken in
    sorted order: with equal generators two methods on the same prompts see the same resamples.
    Raises ValueError for no prompts or a prompt without runs.
    Source: Davison & Hinkley 1997, §3.8 and §5.3 (percentile interval).
    """
    if not values or not all(len(runs) for runs in values.values()):
        raise ValueError("bootstrap_mean needs at least one prompt and one run for each")
    means_P = np.array([np.mean(values[prompt]) for prompt in sorted(values)], dtype=np.float64)
    n_runs = sum(len(runs) for runs in values.values())
    value = float(means_P.mean())
    if len(means_P) == 1:
        return Interval(value, float("nan"), float("nan"), 1, n_runs)
    draws_BP = rng.integers(0, len(means_P), size=(resamples, len(means_P)))
    tail = (1 - level) / 2
    low, high = np.quantile(means_P[draws_BP].mean(axis=1), [tail, 1 - tail])
    return Interval(value, float(low), float(high), len(means_P), n_runs)
