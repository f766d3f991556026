"""What was launched: a folder per launch under `RUNS/slurm/`, its tasks, and where they stand.

    RUNS/slurm/<launch>/launch.json   profile, execution, code, and the tasks with their run ids
                        jobs/         submitit's files and the tasks' logs
                        attempts/     one file for each start of a task: where, when, how it ended

A job is found in the queue by its name, which launch.json holds before anything is submitted: a login shell
that dies between the two loses nothing.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import Field, TypeAdapter

from harness.config import Execution
from harness.records.environment import code_version
from harness.records.files import write_json
from harness.records.identity import slug
from harness.records.lease import slurm_job
from harness.records.reader import RecordError, names, read_bytes, read_record, typed
from harness.records.schema import RECORD_BYTES, Amount, Record, Text
from slurm import site
from slurm.profile import Profile

FOLDER, LAUNCH = "slurm", "launch.json"
LAUNCH_BYTES = 2**26
BEAT_SECONDS = 20.0
RunId = Annotated[str, Field(pattern=r"^[^./][^/]*$")]  # a folder's name: no path leads out of the runs
TaskId = Annotated[str, Field(pattern=r"^[^/]+$")]


@pydantic.dataclasses.dataclass
class Array:
    """Tasks submitted by one sbatch: the runs of each, and Slurm's id once it is known."""

    name: TaskId
    tasks: list[list[RunId]]
    job: TaskId | None = None
    over: list[int] = field(default_factory=list)  # tasks seen to have left the queue


@pydantic.dataclasses.dataclass
class Launch:
    """One call of `harness sweep --slurm` that submitted something; launch.json has all but its `folder`."""

    command: str
    profile_name: str
    profile: Profile
    execution: Execution
    arrays: list[Array]
    created: float
    code: dict[str, Any]
    folder: Path = Path()

    @classmethod
    def prepare(
        cls,
        root: Path,
        command: str,
        profile_name: str,
        profile: Profile,
        execution: Execution,
        arrays: Sequence[Sequence[list[str]]],
    ) -> Launch:
        """A launch of these arrays of tasks, kept before anything is submitted."""
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        named = [
            Array(f"{slug(root.resolve().name)}-{name}-{k}", list(tasks)) for k, tasks in enumerate(arrays)
        ]
        folder = root.resolve() / FOLDER / name
        code = code_version()
        launch = cls(command, profile_name, profile, execution, named, time.time(), code, folder)
        launch.jobs.mkdir(parents=True)
        (launch.folder / "attempts").mkdir()
        launch.save()
        return launch

    @classmethod
    def read(cls, folder: Path) -> Launch | None:
        """The launch in a folder, or None where there is none that can be read."""
        try:
            launch = typed(LAUNCH, read_bytes(folder, LAUNCH, LAUNCH_BYTES), _LAUNCH)
        except (RecordError, OSError):
            return None
        launch.folder = folder
        return launch

    @property
    def jobs(self) -> Path:
        """submitit's folder."""
        return self.folder / "jobs"

    def save(self) -> None:
        """Write launch.json."""
        data = _LAUNCH.dump_python(self, mode="json", exclude={"folder"})
        write_json(self.folder / LAUNCH, data)

    def tasks(self) -> list[Task]:
        """Every task of the launch, as it was submitted."""
        return [
            Task(self, array, index, runs) for array in self.arrays for index, runs in enumerate(array.tasks)
        ]

    @cached_property
    def attempts(self) -> dict[str, list[dict[str, Any]]]:
        """Every start of every task, by the task's name, in order; `seen` is the last sign of life."""
        found: dict[str, list[dict[str, Any]]] = {}
        for name in names(self.folder, "attempts"):
            try:
                told = read_record(self.folder, f"attempts/{name}", _STARTED, RECORD_BYTES)
            except RecordError:
                continue
            if told is not None and name.endswith(".json"):
                seen = os.lstat(self.folder / "attempts" / name).st_mtime
                found.setdefault(told["task"], []).append({**told, "seen": seen})
        return found


class _Started(Record):
    """A file of attempts/."""

    task: TaskId
    started: Amount
    gpus: Annotated[float, Field(ge=0, le=1e6)]
    restart: Annotated[int, Field(ge=0)] = 0
    ended: Amount | None = None
    node: Text = None
    outcome: str = "no word since its start"


_LAUNCH, _STARTED = TypeAdapter(Launch), TypeAdapter(_Started)


@dataclass
class Task:
    """One array task: the runs it advances, and where it stands in the queue, if it is there."""

    launch: Launch
    array: Array
    index: int
    runs: list[str]
    queued: site.Queued | None = None

    @property
    def name(self) -> str:
        """`<array>-<index>`, which names it within its launch."""
        return f"{self.launch.arrays.index(self.array)}-{self.index}"

    @property
    def job(self) -> str | None:
        """Its id as squeue prints it; None where the launch ended before Slurm's answer was kept."""
        if self.queued:
            return self.queued.job
        if self.array.job is None:
            return None
        return self.array.job if len(self.array.tasks) == 1 else f"{self.array.job}_{self.index}"

    @property
    def log(self) -> Path | None:
        """Where its output goes."""
        return self.launch.jobs / f"{self.job}_0_log.out" if self.job else None

    @property
    def script(self) -> Path | None:
        """What was given to sbatch."""
        job = self.array.job or (self.job or "").partition("_")[0]
        return self.launch.jobs / f"{job}_submission.sh" if job else None

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """Its starts, in order."""
        return self.launch.attempts.get(self.name, [])


def launches(root: Path) -> list[Launch]:
    """Every launch of a folder of runs that can be read, the oldest first."""
    return [launch for launch in _read_all(root).values() if launch is not None]


def unreadable(root: Path) -> list[str]:
    """The names of the launches that cannot be read."""
    return [name for name, launch in _read_all(root).items() if launch is None]


def _read_all(root: Path) -> dict[str, Launch | None]:
    folder = root.resolve() / FOLDER
    found = [name for name in names(folder.parent, FOLDER) if os.path.lexists(folder / name / LAUNCH)]
    return {name: Launch.read(folder / name) for name in found}


def in_queue(found: Iterable[Launch]) -> list[Task]:
    """The tasks that are in the queue now, running or waiting; one call of squeue. Raises site.NoSlurm."""
    tasks = [task for launch in found for task in launch.tasks() if task.index not in task.array.over]
    queue = site.queue({task.array.name for task in tasks})
    for task in tasks:
        task.queued = queue.get(task.array.name, {}).get(task.index)
    return [task for task in tasks if task.queued]


@dataclass
class Hours:
    """Wall hours of tasks so far, and the GPUs of them."""

    tasks: float = 0.0
    gpus: float = 0.0


def hours(found: Iterable[Launch]) -> Hours:
    """What the attempts of these launches have used; one without an end counts to its last sign of life."""
    used = Hours()
    for launch in found:
        for attempts in launch.attempts.values():
            for attempt in attempts:
                spent = max((attempt.get("ended") or attempt["seen"]) - attempt["started"], 0.0) / 3600
                used.tasks += spent
                used.gpus += spent * attempt["gpus"]
    return used


class Attempt:
    """This start of a task, as its file tells it; the file's time is its heartbeat."""

    def __init__(self, launch: Launch, task: str):
        self.launch = launch
        self.folder = launch.folder / "attempts"
        self.task = task
        where = slurm_job()
        self.restart = where.get("restart", 0)
        self.path = self.folder / f"{task}.{self.restart}.json"
        self.told: dict[str, Any] = {
            **where,
            "task": task,
            "pid": os.getpid(),
            "started": time.time(),
            "gpus": launch.profile.gpus,
        }
        self._beat = time.monotonic()
        write_json(self.path, self.told, durable=False)

    def beat(self) -> None:
        """Say that it lives, when that is due."""
        if time.monotonic() - self._beat >= BEAT_SECONDS:
            self._beat = time.monotonic()
            os.utime(self.path)

    def superseded(self) -> bool:
        """Whether Slurm has started this task anew, thinking this copy dead."""
        starts = (path.stem.rpartition(".")[2] for path in self.folder.glob(f"{self.task}.*.json"))
        return any(int(start) > self.restart for start in starts if start.isdecimal())

    def end(self, outcome: str, **more: Any) -> None:
        """Say how it ended."""
        self.told |= {"ended": time.time(), "outcome": outcome, **more}
        write_json(self.path, self.told, durable=False)


def tasks_of(run: str, found: Iterable[Launch]) -> list[Task]:
    """The tasks that were given a run, the oldest first."""
    return [task for launch in found for task in launch.tasks() if run in task.runs]


def execution_in_job(launch: Launch) -> Execution:
    """How a task of the launch advances its runs: the sweep's own choice within what the task was given."""
    profile = launch.profile
    threads = max(profile.cpus // profile.slots, 1)
    device = profile.device if launch.execution.device == "auto" else launch.execution.device
    return launch.execution.model_copy(update={"threads": threads, "device": device})
