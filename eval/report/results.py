"""What a study computes, as the pages take it: tables, curves with intervals, scores of every run."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from eval.command import all_notes, make_tables
from eval.metrics.r_precision import SCORES
from eval.results import convergence_frames
from eval.runs import SIGNATURES, Study
from eval.statistics.convergence import Axis, curve
from eval.tables.table import Number, Table

HEADLINE = ("r_precision", "differences", "claims")  # tables that stand open
AXES = {
    "step": "step",
    "wall time": "wall time, s: steps × the method's measured cost",
    "NFE": "denoiser evaluations per run",
    "own N": "N, the run's own number of steps",
}
MEASURES = {
    "per_view": ("R-Precision, share of views", "%"),
    "majority": ("R-Precision, majority", "%"),
    "mean_sim": ("R-Precision, mean similarity", "%"),
    "held_out": ("R-Precision, held-out view", "%"),
    "false_front_rate": ("false front", "%"),
    "peaks": ("front peaks", ""),
    "janus": ("Janus", "%"),
    "saturation": ("saturation", ""),
    "contrast": ("contrast", ""),
    "adjacent": ("adjacent 1 − cos", ""),
}


def results(study: Study) -> dict[str, Any]:
    """All numbers of a report, for `data/results.js`."""
    tables, left_out = make_tables(study)
    order = sorted(tables, key=lambda table: HEADLINE.index(table.name) if table.name in HEADLINE else 99)
    return {
        "stamp": study.stamp.line(),
        "mark": study.stamp.mark,
        "tables": [_table(table, study) for table in order],
        "notes": [*all_notes(study), *left_out],
        "curves": [_curves(study, reading, *about) for reading, about in convergence_frames(study).items()],
        "measures": [
            {"name": name, "label": label, "unit": unit} for name, (label, unit) in MEASURES.items()
        ],
        "scores": scores(study),
        "looks": looks_apart(study),
    }


def scores(study: Study) -> dict[str, dict[str, Any]]:
    """Run id → its value of every measure at its last step, its share of views over steps, and why it is a
    miss where it is one."""
    frame = study.scores
    signs = study.signatures.set_index("run")
    found: dict[str, dict[str, Any]] = {}
    for run, rows in frame.groupby("run", sort=False):
        last = rows.loc[rows["final"]].iloc[0]
        values = [float(last[name]) if name in SCORES else _sign(signs, run, name) for name in MEASURES]
        found[str(run)] = {
            "values": [_digits(value) for value in values],
            "steps": [int(step) for step in rows["step"]],
            "per_view": [_digits(float(value)) for value in rows["per_view"]],
        }
        if isinstance(last["problem"], str):
            found[str(run)]["problem"] = last["problem"]
    return found


def _sign(signs: pd.DataFrame, run: Any, name: str) -> float:
    return float(signs.at[run, name]) if name in SIGNATURES and run in signs.index else float("nan")


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def looks_apart(study: Study) -> dict[str, float]:
    """Prompt → how unlike its methods' results look: 1 − cos of the image features of the same view at the
    same seed, mean over views, seeds and pairs of methods; prompts without a pair are left out."""
    groups: dict[tuple[str, int, int], list[np.ndarray]] = {}
    for run in study.runs:
        rows_VD = study.last_features(run)
        if rows_VD is not None:
            groups.setdefault((run.prompt, run.seed, run.total), []).append(rows_VD)
    apart: dict[str, list[float]] = {}
    for (prompt, _, _), features in sorted(groups.items()):
        for one, other in combinations(features, 2):
            apart.setdefault(prompt, []).append(1 - float((one * other).sum(axis=1).mean()))
    return {prompt: _digits(float(np.mean(values))) for prompt, values in apart.items()}


def _table(table: Table, study: Study) -> dict[str, Any]:
    return {
        "name": table.name,
        "title": table.title,
        "open": table.name in HEADLINE,
        "stamp": study.stamp.line(table.metric) if table.metric else "",
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


def _curves(study: Study, reading: str, axis: Axis, frame: pd.DataFrame) -> dict[str, Any]:
    drawn = curve(frame, axis)
    lines = []
    for method in study.methods:
        own = drawn.loc[drawn["method"] == method]
        if len(own):
            columns = {name: [_digits(float(v)) for v in own[name]] for name in ("x", "mean", "low", "high")}
            lines.append({"method": method, **columns})
    references = []
    if len(study.ceiling):
        truth = study.ceiling.loc[study.ceiling["prompt"].isin(frame["prompt"])]
        references.append({"label": "ground truth", "y": float(truth["majority"].mean())})
    if len(set(frame["pool"])) == 1:
        references.append({"label": "chance", "y": 1 / int(frame["pool"].iloc[0])})
    first = drawn.iloc[0]
    return {
        "reading": reading,
        "axis": AXES[reading],
        "lines": lines,
        "references": references,
        "prompts": int(first["n_prompts"]),
        "seeds": int(first["n_seeds"]),
    }
