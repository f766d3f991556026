"""Packs become array tasks: what is missing is submitted through submitit, what is queued is left alone."""

from __future__ import annotations

import contextlib
import io
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from submitit.core.utils import FailedJobError, FailedSubmissionError

from harness.config import Execution, UserError, first_line
from harness.guidance import hub
from harness.records.files import make_folder
from harness.records.folder import RunFolder, run_folders
from harness.records.identity import RunSpec, run_id
from harness.records.lease import locked
from harness.records.reader import RecordError
from harness.sweep.display import duration
from harness.sweep.fits import AUTO_PACK
from harness.sweep.grid import Suite, write_suite
from harness.sweep.plan import Plan, check_priors, make_plan
from harness.sweep.versions import Others, code_now, settle
from slurm import job, sbatch, site
from slurm.launches import FOLDER, Launch, Task, in_queue, launches
from slurm.profile import Profile

MEASURED = 64  # finished runs that an estimate looks at


@dataclass
class Submission:
    """A sweep for Slurm: its runs, how they are advanced, and the profile of the site."""

    root: Path
    suite: Suite
    specs: Sequence[RunSpec]
    execution: Execution
    profile_name: str
    profile: Profile
    command: str
    retry_failed: bool = False
    others: Others = "refuse"  # what becomes of runs that were made with other code of their method


@dataclass
class Packed:
    """What is missing of a sweep: its plan, and the arrays of tasks that advance its packs."""

    plan: Plan
    arrays: list[list[list[str]]]


def sweep(asked: Submission, dry_run: bool) -> None:
    """Submit what is missing and tell it, or with `dry_run` tell what would be. Raises UserError."""
    if words := site.said_by_environment(asked.profile):
        print(f"environment: {words}", flush=True)
    _weights_are_here(asked)
    check_priors(asked.root, asked.specs)
    pace = seconds_per_step(asked.root)
    found = _dry(asked) if dry_run else submit(asked)
    for run, damage in found.plan.damaged.items():
        print(f"damaged, and left as it is: {run}: {damage}")
    if not found.arrays:
        print(f"nothing to submit; harness status {asked.root}")
        return
    print(estimate(found, pace, asked.profile))
    if not dry_run:
        print(f"submitted; harness status {asked.root} --watch")
    for number, array in enumerate(found.arrays if dry_run else ()):
        name, folder = f"{asked.root.name}-LAUNCH-{number}", asked.root / FOLDER / "LAUNCH" / "jobs"
        text = sbatch.text(asked.profile, name, len(array), folder)
        print(f"\n# array {number}: {len(array)} tasks\n{text}", end="")


def _weights_are_here(asked: Submission) -> None:
    """Raises UserError where a prior of the Hub is not on this machine: its jobs look for it offline."""
    if asked.profile.environment.get(sbatch.OFFLINE, "1") != "1":
        return
    for prior, revision in {(s.config.guidance.prior, s.config.guidance.revision) for s in asked.specs}:
        of_the_hub = hub.is_hub_id(prior) and not Path(prior).expanduser().is_dir()
        if of_the_hub and hub.stored(prior, revision, ["model_index.json"]) is None:
            raise UserError(
                f"{prior} is not on this machine, and jobs run offline; fetch it here first: "
                f"harness doctor --fetch --prior {prior}"
            )


def seconds_per_step(root: Path) -> float | None:
    """Median wall seconds that a step of a pack took in this folder; None before the first run has ended."""
    found = []
    for folder in run_folders(root) if root.is_dir() else []:
        try:
            result = folder.result()
        except RecordError:
            continue  # it tells nothing
        if result and result.get("steps") and result.get("time"):
            found.append(result["time"] / result["steps"])
        if len(found) == MEASURED:
            break
    return statistics.median(found) if found else None


def _dry(asked: Submission) -> Packed:
    """What would be submitted now; writes nothing. Where there is no Slurm, nothing is queued, and the only
    limits are the profile's."""
    if site.here():
        queued, limits = in_queue(launches(asked.root)), site.limits(asked.profile)
    else:
        print("no Slurm on this machine: planned without its queue and its limits", flush=True)
        queued, limits = [], site.stated(asked.profile)
    found = pack(asked, queued, limits)
    settle(asked.root, found.plan, asked.others, None)
    print(found.plan.summary(), flush=True)
    return found


def submit(asked: Submission, say: Callable[[str], None] = print) -> Packed:
    """Submit every run that is neither done, failed, queued nor running; returns at once.

    Only one launch of a folder is made at a time. Raises UserError where Slurm does not answer or refuses;
    what was submitted before stays.
    """
    limits = site.limits(asked.profile)  # first: where Slurm does not answer, nothing is written
    make_folder(asked.root / FOLDER)
    with locked(asked.root / FOLDER):
        queued = _settle(asked.root)
        found = pack(asked, queued, limits)
        if settle(asked.root, found.plan, asked.others, say):
            found = pack(asked, queued, limits)
        say(found.plan.summary())
        by_id = {run_id(spec): spec for spec in asked.specs}
        plan = found.plan
        for run in dict.fromkeys([*plan.todo, *plan.queued, *plan.specless, *plan.unlabelled]):
            folder = RunFolder.create(asked.root, by_id[run])
            if asked.retry_failed:
                folder.forget_failure()
            folder.uncancel()
        if found.arrays:
            write_suite(asked.root, asked.suite)
            _launch(asked, found.arrays, say)
    return found


def pack(asked: Submission, queued: Sequence[Task], limits: site.Limits) -> Packed:
    """What is to be submitted beside the tasks that are in the queue; writes nothing."""
    waiting = {run for task in queued for run in task.runs}
    device = asked.profile.device
    if device == "auto":
        device = "cuda" if asked.profile.gpus else "cpu"
    most = asked.execution.pack or asked.profile.pack or AUTO_PACK[device]
    code = code_now(asked.execution.methods_dirs)
    found = make_plan(
        asked.root, asked.specs, most, asked.retry_failed, queued=waiting, asked=True, code=code
    )
    return Packed(found, arrays(found.packs, asked.profile, limits) if found.packs else [])


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
    waiting = {(id(task.array), task.index) for task in queued}
    for launch in found:
        changed = False
        for task in launch.tasks():
            if task.index in task.array.over or (id(task.array), task.index) in waiting:
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


def _launch(asked: Submission, arrays: list[list[list[str]]], say: Callable[[str], None]) -> None:
    launch = Launch.prepare(
        asked.root, asked.command, asked.profile_name, asked.profile, asked.execution, arrays
    )
    submitted = []
    try:
        for number, array in enumerate(launch.arrays):
            executor = sbatch.executor(launch.jobs, asked.profile, array.name, len(arrays))
            names = [f"{number}-{index}" for index in range(len(array.tasks))]
            root, many = str(asked.root.resolve()), len(names)
            # submitit repeats sbatch's words on stderr, and raises them as well
            with site.submitting(asked.profile), contextlib.redirect_stderr(io.StringIO()):
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
        raise UserError(
            f"sbatch refused: {words}{done}; `harness slurm check {asked.profile_name}`"
        ) from None


def _clear(launch: Launch) -> None:
    """Forget what was not submitted; submitit leaves the pickles of a refused array behind."""
    if not launch.arrays:
        shutil.rmtree(launch.folder)
        return
    launch.save()
    for path in launch.jobs.glob("*.pkl"):
        if not path.name.endswith("_submitted.pkl"):
            path.unlink()


def estimate(found: Packed, seconds_per_step: float | None, profile: Profile) -> str:
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
