"""What an array task does: a pool on its node advances its runs, until they are done or the time is up.

A task holds the runs' root, the name of its launch and run ids; everything else it reads from their
folders. submitit starts it, and is not asked for anything further: the signals are handled here, since its
own handling counts every signal under a limit of ten minutes as a time-out, and fails where Slurm requeues
the job itself.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

from harness.config import UserError, first_line
from harness.records.environment import code_version
from harness.records.folder import RunFolder
from harness.records.lease import STALE_SECONDS, slurm_job
from harness.sweep.display import Display
from harness.sweep.pool import Outcome, Pool
from slurm import site
from slurm.launches import FOLDER, Attempt, Launch, execution_in_job

FENCE_SECONDS = 5.0


class Progress(Display):
    """The log's progress lines, and when the first and the last step were."""

    first_step: float | None = None
    last_step: float | None = None

    def advance(self, steps: int, work: float | None = None) -> None:
        """Count steps, and what they cost."""
        self.last_step = time.time()
        self.first_step = self.first_step or self.last_step
        super().advance(steps, work)


class Ending:
    """Why the task is to end early, if it is: a signal, or a younger copy of itself."""

    def __init__(self, attempt: Attempt):
        self.attempt = attempt
        self.why = ""
        self._looked = time.monotonic()
        self.announced = False
        signal.signal(signal.SIGUSR2, lambda *_: self._told("time limit or preemption", announced=True))
        signal.signal(signal.SIGTERM, lambda *_: self._told("told to end (SIGTERM)"))

    def _told(self, why: str, announced: bool = False) -> None:
        self.why = self.why or why
        self.announced |= announced

    def at_limit(self) -> bool:
        """Whether the warning was one of the time limit; it may come a minute early."""
        profile = self.attempt.launch.profile
        spent = time.time() - self.attempt.told["started"]
        return self.announced and spent > 60 * (profile.time - 1) - profile.signal_seconds

    def requeue(self) -> str | None:
        """Put the task back into the queue where that is for it to do; why that did not work, or None.

        After SIGTERM a job that Slurm cancels, or requeues itself, is no longer running. One that is
        preempted with a time of grace still is: were it just to end, it would count as completed.
        """
        job = str(slurm_job()["job"])
        return site.requeue(job) if self.announced or site.state(job) == "RUNNING" else None

    def __call__(self) -> bool:
        """Polled by the pool."""
        self.attempt.beat()
        if not self.why and time.monotonic() - self._looked > FENCE_SECONDS:
            self._looked = time.monotonic()
            if self.attempt.superseded():
                self._told("Slurm has started this task anew elsewhere")
        return bool(self.why)


def run(root: str, launch_name: str, task: str, runs: list[str]) -> dict[str, Any]:
    """Advance the runs of a task; what it came to. Raises UserError where they cannot be advanced at all."""
    folder = Path(root) / FOLDER / launch_name
    launch = Launch.read(folder)
    if launch is None:
        raise UserError(f"{folder} holds no launch: was it moved, or removed?")
    _clear_leftovers(launch)
    attempt = Attempt(launch, task)
    ending = Ending(attempt)
    if launch.code.get("commit") != code_version().get("commit"):
        print(f"the code has changed since the launch: {launch.code} then, {code_version()} now", flush=True)
    progress = Progress(len(runs), 0)
    try:
        outcome = _advance(Path(root), launch, runs, ending, progress)
    except Exception as error:
        attempt.end(f"error: {first_line(error)}")
        for run_id in runs:  # so that it is not submitted for ever
            RunFolder(Path(root) / run_id).record_death(why=first_line(error), **slurm_job())
        raise
    if outcome.left and not progress.steps_done and ending.at_limit():
        for run_id in outcome.left:  # so that it is not requeued for ever
            why = f"the time limit of {launch.profile.time} minutes is too short to take a step in"
            RunFolder(Path(root) / run_id).record_death(why=why, **slurm_job())
    refused = ending.requeue() if ending.why and outcome.left else None
    how = "done" if not outcome.left else f"{len(outcome.left)} runs left: {ending.why or 'held elsewhere'}"
    if refused:
        how += f"; not requeued ({refused}): the same sweep command resubmits them"
    told = {"done": len(outcome.done), "failed": len(outcome.failed), "left": len(outcome.left)}
    steps = {"steps": progress.steps_done, "first_step": progress.first_step, "last_step": progress.last_step}
    attempt.end(how, **told, **steps)
    print(how, flush=True)
    if outcome.left:
        sys.exit(1)  # no result file: the task is not over
    return told


def _advance(root: Path, launch: Launch, runs: list[str], ending: Ending, progress: Progress) -> Outcome:
    looks = {run_id: RunFolder(root / run_id).look() for run_id in runs}
    for run_id, look in looks.items():
        if look.damage:
            print(f"damaged, and left as it is: {run_id}: {look.damage}", flush=True)
    specs = [look.spec for look in looks.values() if look.spec and not look.damage]
    # Runs that another process holds are left to it, once its lease cannot be one that nobody beats any more.
    patience = STALE_SECONDS + FENCE_SECONDS
    with Pool(root, specs, execution_in_job(launch), ending, patience=patience) as pool:
        plan = pool.plan()
        progress.steps, progress.work = sum(plan.steps_left.values()), pool.work(plan)
        return pool.run(progress)


def _clear_leftovers(launch: Launch) -> None:
    """Remove half-written files of an earlier start of this job, at which submitit would stop."""
    job = slurm_job().get("job")
    for path in launch.jobs.glob(f"{job}_*.save_tmp"):
        path.unlink(missing_ok=True)
