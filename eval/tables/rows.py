"""Rows of numbers: which runs make one, and their mean with its interval."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from eval.statistics.intervals import Interval, bootstrap_mean, share_mean
from eval.tables.table import Cell, percent

if TYPE_CHECKING:
    from eval.runs import Runs

SEED = 0  # of the bootstrap: every row sees the same resamples


def rng() -> np.random.Generator:
    """A fresh generator: equal for every row, so that rows on the same prompts see the same resamples."""
    return np.random.default_rng(SEED)


def by_prompt(frame: pd.DataFrame, column: str) -> dict[str, dict[int, float]]:
    """prompt → seed → value."""
    values: dict[str, dict[int, float]] = {}
    for prompt, seed, value in zip(frame["prompt"], frame["seed"], frame[column], strict=True):
        values.setdefault(prompt, {})[int(seed)] = float(value)
    return values


def mean(frame: pd.DataFrame, column: str, share: bool = False) -> Interval:
    """Mean over prompts of the mean over seeds, with its interval; nan where a value is missing. A `share`
    has values in 0…1."""
    if np.isnan(np.asarray(frame[column], dtype=np.float64)).any():
        return Interval(math.nan, math.nan, math.nan, distinct(frame, "prompt"), len(frame))
    values = by_prompt(frame, column)
    return share_mean(values) if share else bootstrap_mean(values, rng())


def share_of(frame: pd.DataFrame, column: str) -> Cell:
    """The cell of a column's mean, of values in 0…1; "–" where there are none."""
    return percent(mean(frame, column, share=True)) if len(frame) else "–"


def longest(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the most steps."""
    return frame.loc[frame["total"] == frame["total"].max()]


def distinct(frame: pd.DataFrame, column: str) -> int:
    """How many different values a column has."""
    return len(set(frame[column]))


def span(values: Collection[int]) -> str:
    """The least and the most, such as "2–4"."""
    return "–".join(map(str, sorted({min(values), max(values)})))


def groups(runs: Runs, frame: pd.DataFrame) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """(method, N, rows), methods in the runs' order, N rising."""
    for method in runs.methods:
        rows = frame.loc[frame["method"] == method]
        for total in sorted(rows["total"].unique()):
            yield method, int(total), rows.loc[rows["total"] == total]
