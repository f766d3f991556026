"""A run's log: metrics.jsonl, which is the truth, and its W&B mirror, whose failure stops nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, Literal

from harness.config import first_line
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec

Mode = Literal["online", "offline", "disabled"]


def default_mode() -> Mode:
    """What W&B does unless told otherwise: WANDB_MODE, else online with WANDB_API_KEY and offline without."""
    wanted = os.environ.get("WANDB_MODE", "")
    if wanted in ("disabled", "dryrun", "offline"):
        return "disabled" if wanted == "disabled" else "offline"
    return "online" if os.environ.get("WANDB_API_KEY") else "offline"


class Tracker:
    """Logs one run. Made after the folder is back at its checkpoint, whose rows the mirror is given first.

    The mirror never resumes: an offline W&B run cannot, so every stretch of a run tells the whole story up to
    then, with explicit steps, under the run's one id.
    """

    def __init__(
        self,
        folder: RunFolder,
        spec: RunSpec,
        mode: Mode = "offline",
        *,
        study: str = "dreamtime",
        sweep: str = "sweep",
    ):
        self.folder = folder
        rows = folder.metrics()
        self._spent = rows[-1]["time"] if rows else 0.0
        self._started = time.monotonic()
        self._wandb: Any = None
        if mode != "disabled":
            self._guarded(lambda: self._open(spec, mode, study, sweep))
        for row in rows:
            self._mirror(row)

    def seconds(self) -> float:
        """Wall seconds this run has been worked on, over all its stretches."""
        return self._spent + time.monotonic() - self._started

    def log(self, step: int, scalars: Mapping[str, float | int | None]) -> None:
        """Append a row {step, time, **scalars}; raises only what writing the local file raises."""
        row = {"step": int(step), "time": round(self.seconds(), 3), **scalars}
        self.folder.append_metrics([row])
        self._mirror(row)

    def finish(self) -> None:
        """Close the mirror; harmless where there is none."""
        if self._wandb is not None:
            run, self._wandb = self._wandb, None
            self._guarded(run.finish)

    def _mirror(self, row: Mapping[str, Any]) -> None:
        if self._wandb is not None:
            data = {key: value for key, value in row.items() if key != "step" and value is not None}
            self._guarded(lambda: self._wandb.log(data, step=row["step"]))

    def _open(self, spec: RunSpec, mode: Mode, study: str, sweep: str) -> None:
        import wandb

        if mode == "online" and not os.environ.get("WANDB_API_KEY"):
            self.folder.log("W&B: no WANDB_API_KEY, so the mirror stays offline")
            mode = "offline"
        try:
            self._wandb = self._init(wandb, spec, mode, study, sweep)
        except Exception as error:
            if mode == "offline":
                raise
            self.folder.log(f"W&B: no connection ({first_line(error)}), so the mirror goes offline")
            self._wandb = self._init(wandb, spec, "offline", study, sweep)
        self._wandb.define_metric("*", summary="none")

    def _init(self, wandb: Any, spec: RunSpec, mode: Mode, study: str, sweep: str) -> Any:
        # init changes the Settings it is given, so each run needs its own.
        settings = wandb.Settings(
            x_disable_stats=True,
            console="off",
            silent=True,
            disable_git=True,
            save_code=False,
            init_timeout=30,
        )
        return wandb.init(
            project=study,
            group=sweep,
            job_type=spec.label,
            id=self.folder.id,
            name=self.folder.id,
            dir=str(self.folder.path.parent),
            config=spec.model_dump(mode="json") | {"label": spec.label},
            mode=mode,
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            settings=settings,
        )

    def _guarded(self, action: Any) -> None:
        try:
            action()
        except Exception as error:
            self._wandb = None
            self.folder.log(f"W&B: mirror given up ({first_line(error)}); metrics.jsonl goes on")
