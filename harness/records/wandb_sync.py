"""`harness sync`: what W&B lacks of runs, replayed from their folders; resumable, each run once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

from harness.config import UserError, first_line
from harness.records.files import write_json
from harness.records.folder import RunFolder
from harness.records.mirror import (
    RECORD,
    VIEWS,
    Mirror,
    Place,
    client,
    evaluated,
    fingerprint,
    last_metrics,
    picture_hash,
    picture_of,
    record,
    steps_of,
)
from harness.records.schema import NOTE

WORKERS = 4  # runs in flight: a run mostly waits for the server
# The client itself backs off on 429, 5xx and lost connections: so long for a question, so long for the last
# bytes of a run. A server may take a while to count what it has just been given.
ANSWER_SECONDS = 120
UPLOAD_SECONDS = 600
LOOK_AGAIN_SECONDS = (0, 2, 5, 15)
FAILURES_ALLOWED = 3  # in a row; then the others are left without being tried


@dataclass
class Outcome:
    """What `sync` did, by run id; `waiting`: there is nothing to send yet; `left`: what went wrong;
    `damaged`: what of a run cannot be read, which nobody sends."""

    uploaded: list[str] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """The counts, for people."""
        parts = [f"{len(self.uploaded)} uploaded", f"{len(self.whole)} were whole"]
        parts += [f"{len(self.waiting)} running or not begun"] if self.waiting else []
        parts += [f"{len(self.left)} left"] if self.left else []
        parts += [f"{len(self.damaged)} damaged"] if self.damaged else []
        return ", ".join(parts)


def sync(
    folders: Sequence[RunFolder],
    place: Place,
    entity: str | None = None,
    tell: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Upload what W&B lacks of these runs: rows, views and how they ended; `tell` is called after each run.

    A run that ended and is noted as whole is passed over without asking; of an unfinished one W&B gets what
    its last checkpoint covers; a running one is its worker's. A run that fails is left for the next time.
    Raises UserError where there is no API key, or no W&B to be reached.
    """
    account = _Account(place, entity)
    damaged = {folder.id: damage for folder in folders if (damage := folder.damage())}
    usable = [folder for folder in folders if folder.id not in damaged]
    todo = [folder for folder in usable if not account.noted(folder)]
    whole = sorted({folder.id for folder in usable} - {folder.id for folder in todo})
    outcome = Outcome(whole=whole, damaged=damaged)
    lock, failures = Lock(), 0

    def one(folder: RunFolder) -> None:
        nonlocal failures
        try:
            if failures >= FAILURES_ALLOWED:
                raise TimeoutError("not tried after the failures before it")
            done, problem = account.sync(folder), ""
        except Exception as error:
            done, problem = "left", first_line(error)
        with lock:
            failures = failures + 1 if problem else 0
            if problem:
                outcome.left[folder.id] = problem
            else:
                getattr(outcome, done).append(folder.id)
            tell(outcome)

    if todo:
        account.open()
        pool = ThreadPoolExecutor(WORKERS)
        try:
            list(pool.map(one, todo))
        finally:
            pool.shutdown(cancel_futures=True)  # after a Ctrl-C the runs in flight are the last
    return outcome


@dataclass
class _Gap:
    """What the server lacks of a run: rows, pictures by their names there, the ending."""

    rows: bool = False
    pictures: Mapping[str, Path] = field(default_factory=dict)
    ending: bool = False

    def __bool__(self) -> bool:
        return bool(self.rows or self.pictures or self.ending)

    def __str__(self) -> str:
        names = {"rows": self.rows, "pictures": self.pictures, "the ending": self.ending}
        return " and ".join(name for name, lacking in names.items() if lacking)


class _Account:
    """A project of W&B, read through the public API and written through runs."""

    api: Any

    def __init__(self, place: Place, entity: str | None):
        self.place, self.entity = place, entity
        self.server = client().setup().settings.base_url
        self.opening = Lock()

    def open(self) -> None:
        """Find the API key, and the entity that it belongs to; raises UserError."""
        from wandb.errors import Error, UsageError
        from wandb.sdk.lib.service.service_connection import WandbApiFailedError

        try:
            self.api = client().Api(timeout=ANSWER_SECONDS)
            self.entity = self.entity or self.api.settings["entity"] or self.api.default_entity
        except UsageError as error:
            raise UserError(f"W&B: {first_line(error)} Or set WANDB_API_KEY.") from error
        except (Error, WandbApiFailedError) as error:
            raise UserError(f"no answer from W&B at {self.server}: {first_line(error)}") from error

    def noted(self, folder: RunFolder) -> bool:
        """Whether the run ended, and an earlier `sync` saw all of it at this server."""
        if folder.status() not in ("done", "failed"):
            return False
        note = folder.uploaded()
        return note is not None and note == self._note(
            folder, self.entity or note.get("entity"), note["step"]
        )

    def _note(self, folder: RunFolder, entity: str | None, step: int) -> dict[str, Any]:
        where = {"server": self.server, "entity": entity, "project": self.place.project}
        return where | {"step": step, "record": fingerprint(folder)}

    def sync(self, folder: RunFolder) -> str:
        """Make one run whole: "uploaded", "whole" or "waiting"; raises what W&B raises, and UserError."""
        status = folder.status()
        ended = status in ("done", "failed")
        steps = steps_of(folder)
        if not ended:
            settled = folder.checkpoint_step()
            steps = [step for step in steps if step <= settled]
            if status == "running" or not steps:
                return "waiting"
        last = steps[-1] if steps else -1
        gap = self._gap(folder, steps, ended)
        if gap:
            self._upload(folder, gap, last, ended)
            left = gap
            for seconds in LOOK_AGAIN_SECONDS:
                time.sleep(seconds)
                left = self._gap(folder, steps, ended)
                if not left:
                    break
            if left:
                raise UserError(f"W&B still lacks {left}")
        if ended:
            write_json(folder.path / NOTE, self._note(folder, self.entity, last), durable=False)
        return "uploaded" if gap else "whole"

    def _gap(self, folder: RunFolder, steps: Sequence[int], ended: bool) -> _Gap:
        from wandb.apis.public.runs import RunNotFoundError
        from wandb.errors import CommError

        path = f"{self.entity}/{self.place.project}/{folder.id}"
        try:
            remote = self.api.run(path)
            remote.load(force=True)  # the API would show a run as it was when first asked for
        except CommError as error:
            if not isinstance(error.exc, RunNotFoundError):
                raise
            return _Gap(rows=bool(steps), ending=ended)
        last = (remote.historyKeys or {}).get("lastStep", -1)
        common = sum(step <= last for step in steps)
        if remote.historyLineCount != common:
            lines = f"{remote.historyLineCount} rows up to step {last}"
            raise UserError(f"W&B has another history under {path}: {lines}, the run has {common}")
        files = {file.name: file.size for file in remote.files(per_page=200)}
        told = (
            files.get(RECORD) == len(record(folder, folder.spec()))
            and remote.state in ("finished", "failed")
            and remote.summaryMetrics.get("status") == folder.status()
            and remote.summaryMetrics.get("ending") == (folder.result() or folder.failure())
            and (remote.summaryMetrics.get("eval") or {}) == evaluated(folder)
            and (remote.summaryMetrics.get("last") or {}) == last_metrics(folder)
        )
        return _Gap(
            rows=common < len(steps),
            pictures=self._missing_pictures(folder, remote, files, last),
            ending=ended and not told,
        )

    def _missing_pictures(
        self, folder: RunFolder, remote: Any, files: Mapping[str, int], last: int
    ) -> dict[str, Path]:
        """Views that rows at the server name and that never got there, as when a worker was killed."""
        there = {Path(name).stem[-20:] for name, size in files.items() if size}
        there_too = (picture_of(folder, step) for step in folder.view_steps() if step <= last)
        paths = [path for path in there_too if path]
        if all(picture_hash(path) in there for path in paths):
            return {}
        rows = remote.scan_history(page_size=1000, use_cache=False)
        named = {row[VIEWS]["path"]: picture_of(folder, row["_step"]) for row in rows if row.get(VIEWS)}
        return {name: path for name, path in named.items() if path and not files.get(name)}

    def _upload(self, folder: RunFolder, gap: _Gap, last: int, ended: bool) -> None:
        with TemporaryDirectory(prefix="harness-sync-") as scratch:
            with self.opening:
                mirror = Mirror(
                    folder, folder.spec(), "online", self.place, entity=self.entity,
                    scratch=Path(scratch), finish_seconds=UPLOAD_SECONDS,
                )  # fmt: skip
            mirror.follow(last)
            for name, path in gap.pictures.items():
                mirror.restore(name, path)
            if ended:
                mirror.end()
            mirror.close()
