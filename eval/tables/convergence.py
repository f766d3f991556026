"""R-Precision at every step; steps, seconds and denoiser evaluations to the baseline's level, and the area
under the curve."""

from __future__ import annotations

import math

import pandas as pd

from eval.metrics.r_precision import RPrecision
from eval.runs import Runs
from eval.statistics import convergence
from eval.statistics.convergence import SHARES
from eval.statistics.intervals import holm
from eval.tables.cost import costs, measured_costs
from eval.tables.differences import baseline_of
from eval.tables.rows import left_out, longest, rng, share_of
from eval.tables.table import Cell, Number, Table, number, percent
from harness.config import UserError


def convergence_frames(runs: Runs) -> dict[str, tuple[convergence.Axis, pd.DataFrame]]:
    """Reading → (axis, scores), for the readings that the runs allow.

    step, where a run was evaluated at several; own N where there are several; and where the methods' steps
    were timed side by side wall time; NFE where methods differ in them, since it is the steps' ratio
    elsewhere.
    """
    frame = runs.of(RPrecision).scores.rename(columns={"majority": "value"})
    last = longest(frame)
    readings: dict[str, tuple[convergence.Axis, pd.DataFrame]] = {}
    has_curves = last["step"].nunique() > 1
    if has_curves:
        readings["step"] = ("step", last)
    if has_curves and (timed := measured_costs(runs)):
        readings["wall time"] = ("cost", last.assign(cost=timed.seconds_at(last)))
        if len(set(timed.nfe.values())) > 1:
            readings["NFE"] = ("cost", last.assign(cost=timed.evaluations_at(last)))
    if len(runs.totals) > 1:
        readings["own N"] = ("total", frame.loc[frame["final"]])
    return readings


def table(runs: Runs) -> Table:
    """Steps, and seconds, to the baseline's level, and the area under the curve."""
    baseline = baseline_of(runs)
    timed = measured_costs(runs)
    readings = {name: each for name, each in convergence_frames(runs).items() if each[0] != "total"}
    last = longest(runs.of(RPrecision).scores)
    methods = [method for method in runs.methods if method in set(last["method"])]
    bases = {method: base if (base := runs.base(method)) in methods else None for method in methods}
    areas = {
        reading: convergence.area_under_curve(frame, rng(), axis, bases)
        for reading, (axis, frame) in readings.items()
    }
    p_values = {
        (method, reading): area.difference.p_value
        for reading, by_method in areas.items()
        for method, area in by_method.items()
        if area.difference and reading != "wall time"
    }
    adjusted = holm(p_values)
    rows: list[list[Cell]] = []
    dropped: dict[str, int] = {}
    for reading, (axis, frame) in readings.items():
        for method, base in bases.items():
            area = areas[reading][method]
            cells = [Number(1.0 if method == base else math.nan, digits=2)] * len(SHARES)
            rests_on = area
            if base is not None and area.difference:
                scatter = timed.scatter(method, base) if timed and reading == "wall time" else None
                ratios = [
                    convergence.ratio_to_baseline(frame, method, base, rng(), share, axis, scatter_B=scatter)
                    for share in SHARES
                ]
                cells, rests_on = [number(ratio) for ratio in ratios], ratios[0]
            gap = percent(area.difference, sign=True) if area.difference else Number(math.nan)
            if reading == "wall time":  # an interval over prompts alone would leave out the cost's own error
                gap = Number(math.nan)
            p = [Number(each.get((method, reading), math.nan), digits=3) for each in (p_values, adjusted)]
            dropped[method] = rests_on.n_dropped
            rows.append([
                method, reading, *cells, percent(area), gap, *p, rests_on.n_prompts, rests_on.n_runs
            ])  # fmt: skip
    if not rows:
        raise UserError("runs were evaluated at their last step alone (views.count), which is no curve")
    absent = [method for method in runs.methods if method not in methods]
    try:
        about = f"Wall time: steps × the method's {runs.of(costs).line}."
    except UserError as error:
        about = f"No rows of wall time: {error}."
    return Table(
        "convergence",
        ["convergence", "r_precision"],
        f"Convergence: x to reach a share of the final R-Precision of {baseline}, as a ratio [95 % interval]",
        ["method", "x", *(f"ratio at {100 * share:.0f} %" for share in SHARES), "area, %",
         "area − baseline", "p", "p (Holm)", "prompts", "runs"],
        rows,
        [
            "Below 1 is faster. ∞: the level is not reached (an upper end: in more than 2.5 % of resamples, "
            f"less with few prompts). The ratio at {100 * SHARES[0]:.0f} % is the headline: further up "
            "curves are flat and the ratio can tell next to nothing (docs/protocol.md). step: checkpoints of "
            f"the runs with the most steps; for runs with their own N see own_n. p: sign flips over "
            f"prompts, of the area. {about}",
            *left_out(dropped),
            *(["Areas are of all runs of a method."] * any(dropped.values())),
            *([f"Without rows, since without runs of so many steps: {', '.join(absent)}."] * bool(absent)),
        ],
    )  # fmt: skip


def r_precision_steps(runs: Runs) -> Table:
    """R-Precision by majority vote at every evaluated step of the runs with the most steps."""
    frame = longest(runs.of(RPrecision).scores)
    methods = [method for method in runs.methods if method in set(frame["method"])]
    rows: list[list[Cell]] = []
    for step in sorted(frame["step"].unique()):
        at = frame.loc[frame["step"] == step]
        cells = [share_of(at.loc[at["method"] == method], "majority") for method in methods]
        rows.append([int(step), *cells])
    title = "R-Precision by majority vote at every evaluated step, %"
    note = [f"Runs of {max(runs.totals)} steps."] if len(runs.totals) > 1 else []
    return Table("r_precision_steps", ["r_precision"], title, ["step", *methods], rows, note)
