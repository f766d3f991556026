"""Rows of numbers: which runs make one, and their mean with its interval."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd

from eval.statistics.intervals import (
    Difference,
    Interval,
    bootstrap_mean,
    difference_if_paired,
    share_mean,
)
from eval.tables.table import Cell, Number, percent

if TYPE_CHECKING:
    from eval.runs import Runs

K = TypeVar("K", bound=Hashable)
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


def difference(
    ours: pd.DataFrame, theirs: pd.DataFrame, column: str, shares: bool = False
) -> Difference | None:
    """A column's paired difference of two rows; None where they have no prompt and seed in common."""
    return difference_if_paired(by_prompt(ours, column), by_prompt(theirs, column), rng(), shares=shares)


def gap_of(found: Difference | None) -> Cell:
    """The cell of a difference of shares, points; "–" where there is none."""
    return "–" if found is None else percent(found, sign=True)


def p_of(p_values: Mapping[K, float], key: K) -> Cell:
    """The cell of a row's p-value; "–" where it has none."""
    return Number(p_values[key], digits=3) if key in p_values else "–"


def left_out(dropped: Mapping[str, int]) -> list[str]:
    """A note of the pairs that comparisons rest not on, by what is compared; none where there are none."""
    told = "; ".join(f"{name}: {n}" for name, n in dropped.items() if n)
    return [f"Pairs left out, since one of the two is missing or not complete: {told}."] if told else []


def longest(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the most steps."""
    return frame.loc[frame["total"] == frame["total"].max()]


def at_common_n(frame: pd.DataFrame, *methods: str) -> list[pd.DataFrame]:
    """Each method's rows at the largest N that all of them have; all empty where there is none."""
    parts = [frame.loc[frame["method"] == method] for method in methods]
    common = set.intersection(*(set(part["total"]) for part in parts))
    return [part.loc[part["total"] == max(common, default=-1)] for part in parts]


def places(frame: pd.DataFrame) -> set[tuple[str, int]]:
    """The prompts and seeds of some rows."""
    return set(zip(frame["prompt"], frame["seed"], strict=True))


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
