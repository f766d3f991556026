"""What is computed of runs, as the pages take it: tables, curves with intervals, scores of every run."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from eval.metric import RunMetric
from eval.metrics.r_precision import RPrecision
from eval.runs import Runs
from eval.statistics.convergence import Axis, curve
from eval.tables.convergence import convergence_frames
from eval.tables.made import make_tables
from eval.tables.notes import all_notes
from eval.tables.table import Number, Table

FIRST = ("r_precision", "janus", "appearance")  # of measures
HEADLINE = ("r_precision", "differences", "claims")  # tables that stand open
AXES = {
    "step": "step",
    "wall time": "wall time, s: steps × the method's measured cost",
    "NFE": "denoiser evaluations per run",
    "own N": "N, the run's own number of steps",
}


def measures(runs: Runs) -> dict[str, tuple[RunMetric, str, str]]:
    """Column → its metric, its name and its unit, of the numbers of each run that pages show."""
    found: dict[str, tuple[RunMetric, str, str]] = {}
    kinds = runs.metrics
    for name in sorted(kinds, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name)):
        metric = runs.of(kinds[name])
        if not isinstance(metric, RunMetric) or metric.on_request:
            continue
        heads = [(column.key, column.head) for column in metric.columns]
        units = {column.key: column.unit for column in metric.columns}
        for key, label in heads if metric.shown is None else metric.shown:
            found[key if name in FIRST else f"{name}.{key}"] = (metric, label, units[key])
    return found


def results(runs: Runs) -> dict[str, Any]:
    """All numbers of a report, for `data/results.js`."""
    tables, left_out = make_tables(runs)
    order = sorted(tables, key=lambda table: HEADLINE.index(table.name) if table.name in HEADLINE else 99)
    return {
        "stamp": runs.stamp.line(),
        "mark": runs.stamp.mark,
        "tables": [_table(table, runs) for table in order],
        "notes": [*all_notes(runs), *left_out],
        "curves": [_curves(runs, reading, *about) for reading, about in convergence_frames(runs).items()],
        "measures": [
            {"name": name, "label": label, "unit": unit} for name, (_, label, unit) in measures(runs).items()
        ],
        "scores": scores(runs),
        "looks": looks_apart(runs),
    }


def truth(runs: Runs) -> dict[str, np.ndarray]:
    """Prompt → the ring of its ground truth's views; {} where there is none."""
    return {prompt: views_VHWC[: runs[0].config.views.azimuths] for prompt, views_VHWC in runs.truth.items()}


def scores(runs: Runs) -> dict[str, dict[str, Any]]:
    """Run id → its value of every measure at its last step, its share of views over steps, and why it is a
    miss where it is one."""
    values: dict[str, dict[str, float]] = {}
    for name, (metric, _, _) in measures(runs).items():
        frame = runs.frame_of(type(metric))
        if frame is None:  # told with the table
            continue
        for run, value in zip(frame["run"], frame[name.rpartition(".")[2]], strict=True):
            values.setdefault(run, {})[name] = float(value)
    found: dict[str, dict[str, Any]] = {}
    for run, rows in runs.of(RPrecision).scores.groupby("run", sort=False):
        last = rows.loc[rows["final"]].iloc[0]
        own = values.get(str(run), {})
        found[str(run)] = {
            "values": [_digits(own.get(name, float("nan"))) for name in measures(runs)],
            "steps": [int(step) for step in rows["step"]],
            "per_view": [_digits(float(value)) for value in rows["per_view"]],
        }
        if isinstance(last["problem"], str):
            found[str(run)]["problem"] = last["problem"]
    return found


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def looks_apart(runs: Runs) -> dict[str, float]:
    """Prompt → how unlike its methods' results look: 1 − cos of the image features of the same view at the
    same seed, mean over views, seeds and pairs of methods; prompts without a pair are left out."""
    groups: dict[tuple[str, int, int], list[np.ndarray]] = {}
    for run in runs:
        rows_VD = runs.last_features(run)
        if rows_VD is not None:
            groups.setdefault((run.prompt, run.seed, run.total), []).append(rows_VD)
    apart: dict[str, list[float]] = {}
    for (prompt, _, _), features in sorted(groups.items()):
        for one, other in combinations(features, 2):
            apart.setdefault(prompt, []).append(1 - float((one * other).sum(axis=1).mean()))
    return {prompt: _digits(float(np.mean(values))) for prompt, values in apart.items()}


def _table(table: Table, runs: Runs) -> dict[str, Any]:
    return {
        "name": table.name,
        "title": table.title,
        "open": table.name in HEADLINE,
        "stamp": runs.stamp.line(table.metrics) if table.metrics else "",
        "columns": list(table.columns),
        "rows": [[_cell(cell) for cell in row] for row in table.rows],
        "notes": list(table.notes),
    }


def _cell(cell: Any) -> Any:
    """A number as its text and that of its interval; anything else as it is."""
    if not isinstance(cell, Number):
        return cell
    text, bracket, ends = str(cell).partition(" [")
    return [text, bracket.strip() + ends]


def _curves(runs: Runs, reading: str, axis: Axis, frame: pd.DataFrame) -> dict[str, Any]:
    drawn = curve(frame, axis)
    lines = []
    for method in runs.methods:
        own = drawn.loc[drawn["method"] == method]
        if len(own):
            columns = {name: [_digits(float(v)) for v in own[name]] for name in ("x", "mean", "low", "high")}
            lines.append({"method": method, **columns})
    first = drawn.iloc[0]
    return {
        "reading": reading,
        "axis": AXES[reading],
        "lines": lines,
        "references": [{"label": name, "y": y} for name, y in runs.of(RPrecision).levels(frame)],
        "prompts": int(first["n_prompts"]),
        "seeds": int(first["n_seeds"]),
    }
