"""What the runs of a candidate are worth: how early and how well they look like their prompts."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd

from eval.metrics.r_precision import RPrecision
from eval.metrics.shapes import Shapes
from eval.runs import Runs
from harness.search.definition import Size
from harness.search.journal import Score, Scores


def area(steps: np.ndarray, values: np.ndarray, total: int) -> float:
    """Mean of a value over the steps of a run, from 0 at step 0, straight between the evaluated ones: at
    equal evaluations of the denoiser, the area under its curve over them."""
    return float(np.trapezoid(np.r_[0.0, values], np.r_[0, steps]) / total)


def scores(runs: Runs, sized: Size, wanted: Mapping[str, Collection[str]]) -> dict[str, Scores]:
    """The scores of the runs that `wanted` names, name → run ids; a failed run is a miss."""
    frame = runs.of(RPrecision).scores
    shapes = runs.of(Shapes).frame if sized.iou else pd.DataFrame({"run": []})
    iou = dict(zip(shapes["run"], shapes.get("aligned_iou", shapes["run"]), strict=True))
    found: dict[str, Score] = {}
    for run, rows in frame.sort_values("step").groupby("run"):
        first, values = rows.iloc[0], rows[sized.score].to_numpy(dtype=np.float64)
        mean = area(rows["step"].to_numpy(), values, int(first["total"]))
        own = float(iou.get(run, 0.0)) if sized.iou else None
        found[str(run)] = Score(
            prompt=str(first["prompt"]),
            seed=int(first["seed"]),
            value=mean + sized.iou * (own or 0.0),
            mean=mean,
            last=float(values[-1]),
            iou=own,
        )
    return {name: tuple(found[run] for run in sorted(ids)) for name, ids in wanted.items()}
