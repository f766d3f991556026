"""Packs become array tasks: what is missing is submitted through submitit, what is queued is left alone."""

from __future__ import annotations

import contextlib
import io
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from harness.config import Execution, UserError, first_line
from harness.guidance import family
from harness.records.environment import own_code_in_shell
from harness.records.files import make_folder
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec, run_id
from harness.records.lease import locked
from harness.sweep.display import duration
from harness.sweep.fits import AUTO_PACK
from harness.sweep.grid import Suite, write_suite
from harness.sweep.plan import Plan, make_plan
from slurm import job, site
from slurm.launch import FOLDER, Launch, Task, in_queue, launches
from slurm.profile import Profile

OFFLINE = "HF_HUB_OFFLINE"  # compute nodes have no network; weights come with `harness doctor --fetch`


@dataclass
class Ask:
    """A sweep for Slurm: its runs, how they are advanced, and the profile of the site."""

    root: Path
    suite: Suite
    specs: Sequence[RunSpec]
    execution: Execution
    profile_name: str
    profile: Profile
    command: str
    retry_failed: bool = False


@dataclass
class Launched:
    """What a launch came to; `launch` is None where there was nothing to submit."""

    plan: Plan
    arrays: list[list[list[str]]]
    launch: Launch | None = None


def submit(ask: Ask, say: Callable[[str], None] = print) -> Launched:
    """Submit every run that is neither done, failed, queued nor running; returns at once.

    Only one launch of a folder is made at a time. Raises UserError where Slurm does not answer or refuses;
    what was submitted before stays.
    """
    limits = site.limits(ask.profile)  # first: where Slurm does not answer, nothing is written
    make_folder(ask.root / FOLDER)
    with locked(ask.root / FOLDER):
        launched = plan(ask, _settle(ask.root), limits)
        say(launched.plan.summary())
        by_id = {run_id(spec): spec for spec in ask.specs}
        found = launched.plan
        for run in dict.fromkeys([*found.todo, *found.queued, *found.specless]):
            folder = RunFolder.create(ask.root, by_id[run])
            if ask.retry_failed:
                folder.forget_failure()
            folder.uncancel()
        if launched.arrays:
            write_suite(ask.root, ask.suite)
            launched.launch = _launch(ask, launched.arrays, say)
    return launched


def plan(ask: Ask, queued: Sequence[Task], limits: site.Limits) -> Launched:
    """What is to be submitted beside the tasks that are in the queue; writes nothing."""
    waiting = {run for task in queued for run in task.runs}
    device = ask.profile.device
    if device == "auto":
        device = "cuda" if ask.profile.gpus else "cpu"
    most = ask.execution.pack or ask.profile.pack or AUTO_PACK[device]
    found = make_plan(ask.root, ask.specs, most, ask.retry_failed, queued=waiting, asked=True)
    return Launched(found, arrays(found.packs, ask.profile, limits) if found.packs else [])


def arrays(packs: Sequence[list[str]], profile: Profile, limits: site.Limits) -> list[list[list[str]]]:
    """Packs as arrays of tasks, each the ids of its runs.

    A task gets a pack for each of its GPUs, or `packs_per_task`; more where the site lets fewer tasks be
    submitted. Raises UserError where it lets none.
    """
    if limits.room == 0:
        raise UserError("the site lets you submit no further task now: wait for some to end, or cancel some")
    each = profile.packs_per_task or profile.slots
    if limits.room is not None:
        each = max(each, -(-len(packs) // limits.room))
    tasks = [
        [run for pack in packs[start : start + each] for run in pack] for start in range(0, len(packs), each)
    ]
    return [tasks[start : start + limits.array] for start in range(0, len(tasks), limits.array)]


def _settle(root: Path) -> list[Task]:
    """The tasks in the queue. Those that left it are marked; one that never began counts against its runs.

    A task whose log Slurm has opened, and that left no attempt, died in the site's own lines or in the
    profile's: three of those are enough. One without a log was cancelled while it waited.
    """
    found = launches(root)
    queued = in_queue(found)
    waiting = {id(task.array): set[int]() for task in queued}
    for task in queued:
        waiting[id(task.array)].add(task.index)
    for launch in found:
        changed = False
        for task in launch.tasks():
            if task.index in task.array.over or task.index in waiting.get(id(task.array), ()):
                continue
            changed = True
            task.array.over.append(task.index)
            if not task.attempts and task.log and task.log.exists():
                why = f"ended before its Python began; see {task.log}"
                for run in task.runs:
                    folder = RunFolder(root / run)
                    if folder.look().spec:
                        folder.record_death(why=why, job=task.job)
        if changed:
            launch.save()
    return queued


def _launch(ask: Ask, arrays: list[list[list[str]]], say: Callable[[str], None]) -> Launch:
    launch = Launch.prepare(ask.root, ask.command, ask.profile_name, ask.profile, ask.execution, arrays)
    submitted = []
    try:
        for number, array in enumerate(launch.arrays):
            executor = make_executor(launch.jobs, ask.profile, array.name, len(arrays))
            names = [f"{number}-{index}" for index in range(len(array.tasks))]
            root, many = str(ask.root.resolve()), len(names)
            # submitit repeats sbatch's words on stderr, and raises them as well
            with site.submitting(ask.profile), contextlib.redirect_stderr(io.StringIO()):
                jobs = executor.map_array(
                    job.run, [root] * many, [launch.folder.name] * many, names, array.tasks
                )
            array.job = jobs[0].job_id.partition("_")[0]
            submitted.append(array)
            launch.save()
            say(f"array {array.job}: {many} tasks, {sum(map(len, array.tasks))} runs")
    except (FailedJobError, FailedSubmissionError) as error:
        launch.arrays = submitted
        _clear(launch)
        lines = [line for line in str(error).splitlines() if "error" in line.lower()]
        words = " ".join((lines or [first_line(error)])[-1].split())
        done = f" ({len(submitted)} of {len(arrays)} arrays are submitted)" if submitted else ""
        raise UserError(f"sbatch refused: {words}{done}; `harness slurm check {ask.profile_name}`") from None
    return launch


def _clear(launch: Launch) -> None:
    """Forget what was not submitted; submitit leaves the pickles of a refused array behind."""
    if not launch.arrays:
        shutil.rmtree(launch.folder)
        return
    launch.save()
    for path in launch.jobs.glob("*.pkl"):
        if not path.name.endswith("_submitted.pkl"):
            path.unlink()


def make_executor(folder: Path, profile: Profile, name: str, arrays: int = 1) -> submitit.SlurmExecutor:
    """submitit's executor for one array of a launch of so many. Raises NoSlurm where there is no srun."""
    try:
        python = profile.python or shlex.quote(sys.executable)
        executor = submitit.SlurmExecutor(folder, python=python)
    except RuntimeError:
        raise site.NoSlurm("no srun on this machine: is it a login node of a Slurm cluster?") from None
    executor.update_parameters(**parameters(profile, name, arrays))
    return executor


def parameters(profile: Profile, name: str, arrays: int = 1) -> dict[str, Any]:
    """The profile in submitit's words."""
    environment = {OFFLINE: "1"} | family.environment() | profile.environment
    named: dict[str, Any] = {
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "gpus_per_node": profile.gpus_per_node or None,
        "gres": profile.gres,
    }
    further = {key.lstrip("-"): value for key, value in profile.sbatch.items() if value is not False}
    return {
        **{key: value for key, value in named.items() if value is not None},
        "job_name": name,
        "cpus_per_task": profile.cpus,
        "mem": profile.mem,
        "time": profile.time,
        "signal_delay_s": profile.signal_seconds,
        "array_parallelism": max(profile.array_parallelism // arrays, 1),
        "setup": [
            *profile.setup,
            *own_code_in_shell(),
            *(f"export {k}={shlex.quote(v)}" for k, v in environment.items()),
        ],
        "stderr_to_stdout": True,
        "wckey": None,
        # srun of Slurm 22.05 and later does not take over what sbatch was given.
        "srun_args": [f"--cpus-per-task={profile.cpus}"],
        "additional_parameters": {"requeue": True, **further},
    }


def sbatch_text(profile: Profile, name: str, tasks: int, folder: Path) -> str:
    """What sbatch would be given for an array of so many tasks."""
    executor = make_executor(folder, profile, name)
    if tasks > 1:
        executor.parameters["map_count"] = tasks
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def flags(profile: Profile) -> list[str]:
    """The profile as options of sbatch."""
    lines = sbatch_text(profile, "harness-check", 1, Path("harness-check")).splitlines()
    asked = [shlex.split(line)[1] for line in lines if line.startswith("#SBATCH ")]
    return [flag for flag in asked if not flag.startswith(("--output", "--error", "--open-mode"))]


def estimate(found: Launched, seconds_per_step: float | None, profile: Profile) -> str:
    """The plan's cost in words; `seconds_per_step` is of a whole pack."""
    tasks = [task for array in found.arrays for task in array]
    runs = len(found.plan.todo)
    text = f"{runs} runs in {len(found.plan.packs)} packs, {len(tasks)} tasks, {len(found.arrays)} arrays"
    if seconds_per_step is None:
        return f"{text}; their cost is not known before a run of this folder has been logged"
    spent = sum(max(found.plan.steps_left[run] for run in pack) for pack in found.plan.packs)
    hours = spent * seconds_per_step / 3600
    at_once = min(len(tasks), profile.array_parallelism) * profile.slots
    unit = "GPU-hours" if profile.gpus else "task-hours"
    return f"{text}; about {hours:.3g} {unit}, {duration(hours * 3600 / at_once)} with {at_once} at a time"
