"""The share of runs that diverged or could not be finished."""

from __future__ import annotations

from functools import cached_property

import pandas as pd

from eval.metric import Column, RunMetric


class Failed(RunMetric):
    """Every ended run has a value."""

    columns = (Column("failed", "failed, %", "%", "lower"),)
    needs = ()
    table = "signatures"
    shown = ()

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per run."""
        return pd.DataFrame(
            self.runs.about(run) | {"problem": run.failure, "failed": float(bool(run.failure))}
            for run in self.runs
        )
