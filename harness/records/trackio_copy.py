"""`harness sync --to trackio`: ended runs on a dashboard of one's own, without an account or a network.

Conventions: as in W&B (harness/records/mirror.py): project = study, group = sweep, name = the run's id,
config = the spec. A run is copied under another name and renamed once it is whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

from harness.config import UserError, first_line
from harness.records.folder import RunFolder
from harness.records.mirror import VIEWS, Place, columns, evaluated, fingerprint, picture_of, said, steps_of
from harness.records.wandb_sync import Outcome

PART = ".part"
RENAMED = {"time": "seconds"}  # Trackio keeps the other for itself
DIGEST = "harness_digest"  # of a copy's config: what it was made from
_ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID")


def copy(
    folders: Sequence[RunFolder], place: Place, tell: Callable[[Outcome], None] = lambda outcome: None
) -> Outcome:
    """Copy what ended to the local Trackio project; what is there and has not changed stays.

    Raises UserError where the package is not installed.
    """
    for name in _ELSEWHERE:  # copies are local; `trackio sync` sends a project to a Space
        os.environ.pop(name, None)
    os.environ["TRACKIO_STORAGE_MODE"] = "sqlite"  # what is read back here, on every file system
    try:
        import trackio
    except ImportError:
        raise UserError("--to trackio needs its package: pip install 'dreamtime-harness[trackio]'") from None
    outcome = Outcome()
    there = _runs(trackio, place.project)
    for folder in folders:
        if damage := folder.damage():
            outcome.damaged[folder.id] = damage
        elif folder.status() not in ("done", "failed"):
            outcome.waiting.append(folder.id)
        elif folder.id in there and (there[folder.id].config or {}).get(DIGEST) == fingerprint(folder):
            outcome.whole.append(folder.id)
        else:
            try:
                with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                    _copy(trackio, folder, place, there)
                outcome.uploaded.append(folder.id)
            except Exception as error:  # of one run: the others are not touched
                outcome.left[folder.id] = first_line(error)
        tell(outcome)
    return outcome


def _copy(trackio: Any, folder: RunFolder, place: Place, there: Mapping[str, Any]) -> None:
    """Raises UserError where not all of it is in the project afterwards."""
    from trackio.sqlite_storage import SQLiteStorage

    spec, part = folder.spec(), folder.id + PART
    if part in there:
        there[part].delete()
    told = {
        DIGEST: fingerprint(folder), "label": spec.label, "status": folder.status(), "eval": evaluated(folder)
    }  # fmt: skip
    run = trackio.init(
        project=place.project,
        name=part,
        group=place.group,
        config=spec.model_dump(mode="json") | told,
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )
    rows = {row["step"]: row for row in folder.metrics()}
    steps = steps_of(folder) or [0]  # a run that failed before its first has a row that says so
    for step in steps:
        row = rows.get(step, {"status": folder.status()})
        data = {RENAMED.get(key, key): value for key, value in columns(row).items()}
        if views := picture_of(folder, step):
            data[VIEWS] = trackio.Image(str(views), caption=said(spec, step))
        run.log(data, step=step)
    trackio.finish()
    kept = [row["step"] for row in SQLiteStorage.get_logs(place.project, part)]
    made = _runs(trackio, place.project).get(part)
    if made is None or kept != steps:
        raise UserError(f"{len(kept)} of {len(steps)} rows are in the project; is its disk full?")
    if folder.id in there:
        there[folder.id].delete()
    made.rename(folder.id)


def _runs(trackio: Any, project: str) -> dict[str, Any]:
    """Those there are by name, none of a project that there is not."""
    try:
        return {run.name: run for run in trackio.Api().runs(project)}
    except ValueError:
        return {}
