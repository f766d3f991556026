"""R-Precision by majority vote at every evaluated step."""

from __future__ import annotations

from eval.metrics.r_precision import RPrecision
from eval.runs import Runs
from eval.tables.rows import mean
from eval.tables.table import Cell, Table, percent


def table(runs: Runs) -> Table:
    """R-Precision by majority vote at every evaluated step of the runs with the most steps."""
    total = max(runs.totals)
    frame = runs.of(RPrecision).scores.loc[runs.of(RPrecision).scores["total"] == total]
    rows: list[list[Cell]] = []
    for step in sorted(frame["step"].unique()):
        at = frame.loc[frame["step"] == step]
        cells: list[Cell] = []
        for method in runs.methods:
            part = at.loc[at["method"] == method]
            cells.append(percent(mean(part, "majority", share=True)) if len(part) else "–")
        rows.append([int(step), *cells])
    title = "R-Precision by majority vote at every evaluated step, %"
    note = [f"Runs of {total} steps."] if len(runs.totals) > 1 else []
    return Table("r_precision_steps", ["r_precision"], title, ["step", *runs.methods], rows, note)
