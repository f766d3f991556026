"""The values of each run, by metric, kept in its folder for whoever mirrors it."""

from __future__ import annotations

import json
import math

from eval.metric import RunMetric
from eval.runs import Runs
from harness.records.files import write_cache
from harness.records.schema import VALUES


def keep_values(runs: Runs) -> None:
    """Write `<run>/eval/values.json`: metric → version, scorer and the columns of the run's last step.

    Metrics that were computed replace their earlier values; the others' stay.
    """
    found: dict[str, dict[str, dict[str, float | int | str]]] = {}
    for metric in runs.computed:
        if not isinstance(metric, RunMetric):
            continue
        keys = [column.key for column in metric.columns]
        for row in metric.frame.to_dict("records"):
            values = {key: float(f"{row[key]:.6g}") for key in keys if math.isfinite(row[key])}
            about = {"version": metric.version, "scorer": runs.stamp.clip}
            found.setdefault(str(row["run"]), {})[metric.name] = about | values
    for run in runs:
        kept = run.folder.json(VALUES)
        values = (kept if isinstance(kept, dict) else {}) | found.get(run.run_id, {})
        if values != kept:
            write_cache(run.path / VALUES, json.dumps(values, indent=1, sort_keys=True).encode())
