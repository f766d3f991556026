"""Convergence: how many steps, or seconds, a method needs for a level of R-Precision. No torch.

Input is one table of scores with the columns method, prompt, seed, total (the run's own number of steps N),
step and value (0…1; a failed run is a miss, 0). "Iterations" has two readings, and for a schedule tied to N
they differ:

- checkpoints of one run: rows of one `total`, x = "step", or x = "cost": a column that holds the step times
  what a step of the method costs, in seconds or denoiser evaluations;
- separate runs, each with its own N: rows with step == total, x = "total".

A method's curve is the mean over prompts of the mean over a prompt's seeds. Over the checkpoints of a run it
is a straight line between the evaluated points, and the line from (0, 0) before the first: nothing is
retrieved from an empty scene. Between separate runs nothing is drawn: nobody ran an N in between, so a level
is reached between two of the N that were run (`own_n`). Runs without a score at every x of their method are
dropped and counted, so that each point of a curve is a mean over the same runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from eval.statistics.intervals import (
    RESAMPLES,
    Difference,
    Interval,
    difference_if_paired,
    percentile_interval,
    resample,
    share_interval,
    share_mean,
)
from harness.config import UserError, nearest

VERSION = 2
AXES = ("step", "cost", "total")
KEY = ["method", "prompt", "seed", "total", "step"]
SHARES = (0.8, 0.95, 1.0)  # of the baseline's final level; the first is the headline (docs/protocol.md)
TOLERANCE = 1e-12  # of a level: equal means added up in another order

Axis = Literal["step", "cost", "total"]


@dataclass(frozen=True)
class Ratio(Interval):
    """x at which the method reaches a level / x at which the baseline does; below 1 is faster.

    `value` and `high` are inf where the level is never reached; `n_runs` counts (prompt, seed) pairs.
    """

    level: float  # share × the baseline's final mean
    x: float  # at which the method reaches it
    n_undefined: int  # resamples in which the method never reaches the level, or the level is zero
    n_dropped: int  # pairs that are not complete in both methods


@dataclass(frozen=True, eq=False)
class Pair:
    """Two methods' curves over the (prompt, seed) pairs that both have in full: x, and a row per prompt."""

    method_X: np.ndarray
    method_PX: np.ndarray
    baseline_X: np.ndarray
    baseline_PX: np.ndarray
    n_runs: int
    n_dropped: int


@dataclass(frozen=True)
class Bracket:
    """A value that is known to lie between two others; 0 and inf where one end is open.

    `outer_low`, `outer_high`: what 95 % of the resamples' brackets lie within; nan for a single prompt.
    """

    low: float
    high: float
    outer_low: float
    outer_high: float


@dataclass(frozen=True)
class OwnN:
    """Between which N of the grid a level is reached, by a method and by the baseline, and their ratio."""

    method: Bracket
    baseline: Bracket
    ratio: Bracket  # of the N at which they reach it; below 1 is faster
    level: float  # share × the baseline's mean at its largest N
    n_prompts: int
    n_runs: int  # (prompt, seed) pairs
    n_dropped: int  # pairs that are not complete in both methods


@dataclass(frozen=True)
class Area(Interval):
    """Area under a method's curve over [0, N], divided by N: 0…1."""

    difference: Difference | None  # to the baseline, where one was named and has runs in common
    n_dropped: int


@dataclass(frozen=True, eq=False)
class _Curves:
    """The curves of one method: a row per (prompt, seed), a column per x."""

    runs: pd.DataFrame
    n_dropped: int

    @property
    def x_X(self) -> np.ndarray:
        return self.runs.columns.to_numpy(dtype=np.float64)

    def prompts_PX(self, pairs: pd.Index | None = None) -> np.ndarray:
        """The mean over a prompt's seeds, prompts sorted; over `pairs` of (prompt, seed), or all."""
        runs = self.runs if pairs is None else self.runs.loc[pairs]
        return np.asarray(runs.groupby(level="prompt").mean())


def curve(frame: pd.DataFrame, x: Axis = "step") -> pd.DataFrame:
    """Mean curves with bands: method, x, mean, low, high, n_prompts, n_seeds, n_runs, n_dropped.

    Bands (95 %, `share_interval`) hold at each x by itself, not for the whole curve; they are nan for a
    single prompt. Raises UserError for a table that does not fit the reading.
    """
    parts = []
    for method, curves in _curves(_rows(frame, x), x).items():
        y_PX = curves.prompts_PX()
        n = len(y_PX)
        low, high = share_interval(y_PX, curves.runs.to_numpy().var(axis=0), len(curves.runs))
        columns = {"method": method, "x": curves.x_X, "mean": y_PX.mean(axis=0), "low": low, "high": high}
        counts = {
            "n_prompts": n,
            "n_seeds": curves.runs.index.get_level_values("seed").nunique(),
            "n_runs": len(curves.runs),
            "n_dropped": curves.n_dropped,
        }
        parts.append(pd.DataFrame(columns | counts))
    return pd.concat(parts, ignore_index=True)


def ratio_to_baseline(
    frame: pd.DataFrame,
    method: str,
    baseline: str,
    rng: np.random.Generator,
    share: float = SHARES[0],
    x: Axis = "step",
    resamples: int = RESAMPLES,
    scatter_B: np.ndarray | None = None,
) -> Ratio:
    """x_method(c) / x_baseline(c) at the level c = share × the baseline's final mean: "faster convergence".

    Both curves are means over the (prompt, seed) pairs complete in both. A resample draws prompts for both
    methods together and computes c, both crossings and the ratio anew; `scatter_B` [resamples] multiplies
    the resampled ratios, for an x that is itself measured with an error. A level that the method never
    reaches makes the ratio +inf, and the interval's upper end with it once more than 2.5 % of the resamples
    do so, less with few prompts (`percentile_interval`). A level of zero leaves the ratio undefined: such a
    resample counts as 0 for the lower end and +inf for the upper. Raises UserError for an unknown method, a
    share outside (0, 1], no common pair, and for x = "total", where `own_n` is the answer.
    """
    if x == "total":
        raise UserError("separate runs have no curve between their N; ask own_n for brackets")
    return ratio_of(_pair(frame, method, baseline, share, x), rng, share, resamples, scatter_B)


def ratio_of(
    pair: Pair,
    rng: np.random.Generator,
    share: float,
    resamples: int = RESAMPLES,
    scatter_B: np.ndarray | None = None,
) -> Ratio:
    """`ratio_to_baseline` of curves that are there already."""
    n = len(pair.baseline_PX)
    counts_BP = np.vstack([np.ones(n), resample(n, rng, resamples)])  # row 0 is the sample itself
    means_BX = counts_BP @ pair.baseline_PX / n
    level_B = share * means_BX[:, -1]
    x_baseline_B = _first_crossing(pair.baseline_X, means_BX, level_B)
    x_method_B = _first_crossing(pair.method_X, counts_BP @ pair.method_PX / n, level_B)
    with np.errstate(divide="ignore", invalid="ignore"):  # both reach a level of zero at 0
        ratio_B = x_method_B / x_baseline_B
    drawn_B = ratio_B[1:] if scatter_B is None else ratio_B[1:] * scatter_B
    low, high = percentile_interval(drawn_B, n=n) if n > 1 else (np.nan, np.nan)
    return Ratio(
        value=float(ratio_B[0]),
        low=float(np.maximum(low, 0.0)),
        high=float(high),
        n_prompts=n,
        n_runs=pair.n_runs,
        level=float(level_B[0]),
        x=float(x_method_B[0]),
        n_undefined=int((~np.isfinite(ratio_B[1:])).sum()),
        n_dropped=pair.n_dropped,
    )


def own_n(
    frame: pd.DataFrame,
    method: str,
    baseline: str,
    rng: np.random.Generator,
    share: float = SHARES[0],
    resamples: int = RESAMPLES,
) -> OwnN:
    """The N of separate runs between which a level c = share × the baseline's mean at its largest N is
    reached: above the last N below c before the first N at c or above, and at most that one.

    A level reached at the smallest N lies in (0, N], one that no N reaches in (N, inf]. The ratio lies
    between the least and the most that both brackets allow. A resample draws prompts for both methods
    together and finds all three brackets anew; a level of zero leaves them open. Raises UserError as
    `ratio_to_baseline`.
    """
    return own_n_of(_pair(frame, method, baseline, share, "total"), rng, share, resamples)


def own_n_of(pair: Pair, rng: np.random.Generator, share: float, resamples: int = RESAMPLES) -> OwnN:
    """`own_n` of means by N that are there already."""
    n = len(pair.baseline_PX)
    counts_BP = np.vstack([np.ones(n), resample(n, rng, resamples)])
    means_BX = counts_BP @ pair.baseline_PX / n
    level_B = share * means_BX[:, -1]
    ours = _between(pair.method_X, counts_BP @ pair.method_PX / n, level_B)
    theirs = _between(pair.baseline_X, means_BX, level_B)
    with np.errstate(divide="ignore"):
        ratio = ours[0] / theirs[1], np.where(theirs[0] > 0, ours[1] / theirs[0], np.inf)
    return OwnN(
        method=_bracket(*ours, n),
        baseline=_bracket(*theirs, n),
        ratio=_bracket(*ratio, n),
        level=float(level_B[0]),
        n_prompts=n,
        n_runs=pair.n_runs,
        n_dropped=pair.n_dropped,
    )


def area_under_curve(
    frame: pd.DataFrame,
    rng: np.random.Generator,
    x: Axis = "step",
    baseline: str | Mapping[str, str | None] | None = None,
    resamples: int = RESAMPLES,
) -> dict[str, Area]:
    """Area under each method's curve over [0, N] / N with its interval, and the difference to the baseline.

    `baseline` may be one for each method. N is the largest x that every method of the table has: the number
    of steps, or the end of the method whose steps cost least. The area is taken run by run: its mean is the
    area under the mean curve, and it is paired by prompt and seed. Raises UserError as `curve` does, and for
    x = "total", which has no curve.
    """
    if x == "total":
        raise UserError("separate runs have no curve between their N, so no area; compare them N by N")
    rows = _rows(frame, x)
    bases = baseline if isinstance(baseline, Mapping) else dict.fromkeys(rows["method"].unique(), baseline)
    for name in sorted({base for base in bases.values() if base is not None}):
        _known(name, rows)
    curves = _curves(rows, x)
    end = min(one.x_X[-1] for one in curves.values())
    areas = {method: _areas(one, end) for method, one in curves.items()}
    seed = int(rng.integers(2**63))
    found = {}
    for method, values in areas.items():
        mean = share_mean(values)
        difference = None
        base = bases.get(method)
        if base is not None and method != base:
            difference = difference_if_paired(values, areas[base], np.random.default_rng(seed), resamples)
        found[method] = Area(**vars(mean), difference=difference, n_dropped=curves[method].n_dropped)
    return found


def _pair(frame: pd.DataFrame, method: str, baseline: str, share: float, x: Axis) -> Pair:
    if not 0 < share <= 1:
        raise UserError(
            f"share {share} of the baseline's final level; choose above 0 and at most 1, such as 0.8"
        )
    rows = _rows(frame, x)
    for name in (method, baseline):
        _known(name, rows)
    rows = rows.loc[rows["method"].isin([method, baseline])]
    curves = _curves(rows, x)
    ours, theirs = curves[method], curves[baseline]
    pairs = ours.runs.index.intersection(theirs.runs.index).sort_values()
    if not len(pairs):
        raise UserError(f"{method} and {baseline} have no (prompt, seed) in common that is complete over {x}")
    method_PX, baseline_PX = ours.prompts_PX(pairs), theirs.prompts_PX(pairs)
    n_dropped = len(rows.drop_duplicates(["prompt", "seed"])) - len(pairs)
    return Pair(ours.x_X, method_PX, theirs.x_X, baseline_PX, len(pairs), n_dropped)


def _between(x_X: np.ndarray, y_BX: np.ndarray, level_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The evaluated x before and at which each row first has its level; (0, inf) for a level of zero."""
    reached_BX = y_BX >= level_B[:, None] - TOLERANCE
    first_B = np.where(reached_BX.any(axis=1), reached_BX.argmax(axis=1), len(x_X))
    defined_B = level_B > 0
    low_B = np.where(defined_B, np.r_[0.0, x_X][first_B], 0.0)
    return low_B, np.where(defined_B, np.r_[x_X, np.inf][first_B], np.inf)


def _bracket(low_B: np.ndarray, high_B: np.ndarray, n_prompts: int) -> Bracket:
    """The sample's own bracket, row 0, and what the resamples' lie within."""
    outer = (np.nan, np.nan)
    if n_prompts > 1:
        outer = percentile_interval(low_B[1:])[0], percentile_interval(high_B[1:])[1]
    return Bracket(float(low_B[0]), float(high_B[0]), float(outer[0]), float(outer[1]))


def _anchored(x_X: np.ndarray, y_BX: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Curves that start at (0, 0), unless they were evaluated at 0."""
    if x_X[0] <= 0:
        return x_X, y_BX
    return np.r_[0.0, x_X], np.pad(y_BX, ((0, 0), (1, 0)))


def _first_crossing(x_X: np.ndarray, y_BX: np.ndarray, level_B: np.ndarray) -> np.ndarray:
    x_X, y_BX = _anchored(x_X, y_BX)
    reached_BX = y_BX >= level_B[:, None] - TOLERANCE
    rows_B, after_B = np.arange(len(y_BX)), reached_BX.argmax(axis=1)
    before_B = np.maximum(after_B - 1, 0)
    low_B = y_BX[rows_B, before_B]
    rise_B = y_BX[rows_B, after_B] - low_B
    part_B = np.divide(level_B - low_B, rise_B, out=np.ones_like(rise_B), where=rise_B > 0).clip(0, 1)
    crossing_B = x_X[before_B] + part_B * (x_X[after_B] - x_X[before_B])
    return np.where(reached_BX.any(axis=1), crossing_B, np.inf)


def _areas(curves: _Curves, end: float) -> dict[str, dict[int, float]]:
    x_X, y_RX = _anchored(curves.x_X, curves.runs.to_numpy())
    knots = np.r_[x_X[x_X < end], end]
    found: dict[str, dict[int, float]] = {}
    for (prompt, seed), y_X in zip(curves.runs.index, y_RX, strict=True):
        area = np.trapezoid(np.interp(knots, x_X, y_X), knots) / end
        found.setdefault(prompt, {})[seed] = float(area)
    return found


def _curves(rows: pd.DataFrame, x: Axis) -> dict[str, _Curves]:
    found = {}
    for method, part in rows.groupby("method"):
        values = part.pivot(index=["prompt", "seed"], columns=x, values="value")
        complete = values.dropna()
        if complete.empty:
            points = ", ".join(map(str, values.columns))
            raise UserError(
                f"no run of {method} has a score at every {x} of {points}; finish or leave out some"
            )
        found[str(method)] = _Curves(complete, len(values) - len(complete))
    return found


def _known(method: str, rows: pd.DataFrame) -> None:
    names = set(rows["method"])
    if method not in names:
        raise UserError(f"no scores of the method '{method}'{nearest(method, names)}")


def _rows(frame: pd.DataFrame, x: Axis) -> pd.DataFrame:
    """The rows that a curve over `x` is read from; UserError where none can be."""
    if x not in AXES:
        raise UserError(f"unknown axis '{x}'{nearest(x, AXES)}")
    for column in [*KEY, "value", *["cost"] * (x == "cost")]:
        if column not in frame.columns:
            raise UserError(f"the table of scores has no column '{column}'{nearest(column, frame.columns)}")
    rows = frame.reset_index(drop=True)
    if x == "total":
        rows = rows.loc[rows["step"] == rows["total"]]
    if rows.empty:
        raise UserError("no scores" + (" at a run's own last step (step == total)" if x == "total" else ""))
    totals = sorted(rows["total"].unique())
    if x != "total" and len(totals) > 1:
        listed = ", ".join(map(str, totals))
        raise UserError(
            f"a curve over '{x}' needs runs of one total, got {listed}; choose one, or x = 'total'"
        )
    _refuse(rows, "two scores for one run and step", rows.duplicated(KEY))
    _refuse(rows, "a score outside 0..1", ~rows["value"].between(0, 1))
    if x == "cost":
        _refuse(rows, "a cost that is not above zero", ~(rows["cost"] > 0))
        per_step = rows["cost"] / rows["step"]
        first = per_step.groupby(rows["method"]).transform("first")
        _refuse(rows, "another cost per step than the method's", ~np.isclose(per_step, first))
    return rows


def _refuse(rows: pd.DataFrame, what: str, bad: Any) -> None:
    if bad.any():
        method, prompt, seed, total, step = rows.loc[bad, KEY].iloc[0]
        raise UserError(f"{what}: {method}, '{prompt}', seed {seed}, step {step} of {total}")
