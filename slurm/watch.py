"""The Slurm side of a folder of runs: what is queued, what it has cost, why a run stands where it does."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.records.folder import RunFolder
from harness.records.lease import holder
from harness.records.reader import RecordError, is_file, is_folder, tail
from harness.records.schema import FAILURE, LOG, RESULT
from harness.sweep.status import SweepStatus, blame, step_at, sweep_status
from slurm import site
from slurm.launches import FOLDER, Hours, Launch, Task, hours, in_queue, launches, tasks_of, unreadable

LOG_LINES, LOG_BYTES = 12, 20_000
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED")


@dataclass
class View:
    """The tasks of a folder that are in the queue, the hours its launches have used, and what is amiss."""

    queue: list[Task]
    used: Hours
    problem: str | None

    @property
    def runs(self) -> set[str]:
        """The runs that tasks in the queue have."""
        return {run for task in self.queue for run in task.runs}


def used_here(root: Path) -> bool:
    """Whether a sweep of this folder was ever given to Slurm."""
    return is_folder(root / FOLDER)


def look(root: Path) -> View:
    """The queue and the hours, by one call of squeue at most."""
    found = launches(root)
    queue: list[Task] = []
    problem = None
    try:
        if site.here():
            queue = in_queue(_unfinished(found, root))
        elif found:
            problem = "no squeue on this machine, so the queue is not known"
    except site.NoSlurm as error:
        problem = f"the queue is not known: {error}"
    return View(queue, hours(found), problem)


def _unfinished(found: Sequence[Launch], root: Path) -> list[Launch]:
    """Launches with a run that has not ended: there is nothing to ask of the others."""

    def over(run: str) -> bool:
        return any(os.path.lexists(root / run / name) for name in (RESULT, FAILURE))

    return [x for x in found if not all(over(run) for task in x.tasks() for run in task.runs)]


def status(root: Path, only: Collection[str] | None = None) -> SweepStatus:
    """`sweep_status` with what the queue knows; the hours and the pace are those of all runs."""
    view = look(root)
    state = sweep_status(root, view.runs, only)
    steps = state.total.steps if only is None else sweep_status(root, view.runs).total.steps
    running = [task for task in view.queue if task.queued and task.queued.state not in WAITING]
    waiting = [task for task in view.queue if task.queued and task.queued.state in WAITING]
    total = state.total
    pace = (view.used.gpus or view.used.tasks) / steps if steps else 0.0
    to_come = pace * total.steps_left
    if running and steps:
        # Of all tasks so far, with their starts: the rate of those that run now says little of short runs.
        seconds_per_step = 3600 * view.used.tasks / steps / len(running)
        for row in (*state.methods, total):
            row.seconds_left = seconds_per_step * row.steps_left
    unit = "GPU-hours" if view.used.gpus else "task-hours"
    used = view.used.gpus or view.used.tasks
    state.slurm = {
        "tasks_running": len(running),
        "tasks_waiting": len(waiting),
        "unit": unit,
        "used": used,
        "to_come": to_come,
        "problem": view.problem,
    }
    nodes = sorted({task.queued.node for task in running if task.queued and task.queued.node})
    reasons = Counter(task.queued.reason for task in waiting if task.queued)
    words = [f"{len(running)} tasks running" + (f" on {', '.join(nodes[:8])}" if nodes else "")]
    if len(nodes) > 8:
        words[-1] += f" and {len(nodes) - 8} more"
    waits = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(3))
    words.append(f"{len(waiting)} waiting" + (f" ({waits})" if waits else ""))
    words.append(f"{used:.2f} {unit} used")
    if total.steps_left and pace:
        words.append(f"about {to_come:.2f} to come")
    state.notes = [f"Slurm: {', '.join(words)}", *([view.problem] if view.problem else [])]
    if lost := unreadable(root):
        state.notes.append(f"left out: {len(lost)} launches that cannot be read, such as slurm/{lost[0]}")
    return state


def why(folder: RunFolder) -> list[tuple[str, str]]:
    """Why a run stands where it does: its state and reason, where it last was, and the end of its log."""
    root = folder.path.parent
    found: list[tuple[str, str | None]] = [("run", folder.id)]
    last: dict[str, Any] = {}
    host = None
    told: set[str] = set()  # lines of a traceback
    try:
        look = folder.look()
        if look.damage:
            raise RecordError(look.damage)
        spec = look.spec or folder.spec()
        failure, env = folder.failure(), folder.env() or {}
        step = step_at(folder.state(), failure)
        found.append(("state", f"{look.status} at step {step} of {spec.config.steps}"))
        if failure:
            detail = str(failure.get("detail") or "")
            found += [("reason", str(failure["reason"])), *blame(detail)]
            told = {line for line in detail.splitlines() if line.strip()}
        host = env.get("host")
        last = holder(folder.path) or (folder.deaths() or [{}])[-1] or env.get("slurm") or {}
    except RecordError as error:
        found.append(("state", f"damaged: {error}"))
    tasks = tasks_of(folder.id, launches(root))
    log: Path | None = root / "logs" / "workers.log"
    if tasks:
        task = tasks[-1]
        try:
            queued = next((t.queued for t in in_queue([task.launch]) if t.name == task.name), None)
            where = f"{queued.state} ({queued.reason})" if queued else "not in the queue"
        except site.NoSlurm as error:
            where = f"the queue is not known: {error}"
        found.append(("job", f"{task.job or 'not known'}: {where}"))
        said = site.accounted(task.job) if task.job and site.here() else None
        found.append(("accounting", said))
        for attempt in task.attempts:
            ended = attempt.get("outcome", "no word since its start")
            found.append((f"start {attempt.get('restart', 0) + 1}", f"on {attempt.get('node')}: {ended}"))
        found.append(("sbatch", str(task.script) if task.script else None))
        log = task.log
    found.append(("node", last.get("node") or last.get("host") or host))
    for name, path in (("log", log), ("its own log", folder.path / LOG)):
        if path and is_file(path.parent, path.name):
            found.append((name, "\n".join([str(path), *(line for line in _tail(path) if line not in told)])))
    return [(name, text) for name, text in found if text]


def _tail(path: Path) -> list[str]:
    return tail(path.parent, path.name, LOG_BYTES).decode(errors="replace").splitlines()[-LOG_LINES:]


def cancel(root: Path, runs: Sequence[str]) -> dict[str, Any]:
    """Take these runs out, and end the tasks that then have nothing left to do; {runs, tasks}.

    A run that some worker is advancing leaves its pack at its next write; the pack's other runs go on.
    """
    found = [run for run in runs if RunFolder(root / run).cancel()]
    queue = in_queue(launches(root)) if used_here(root) and site.here() else []
    ended = ("done", "failed", "cancelled", "damaged")
    live = [task for task in queue if task.queued and task.queued.state != "COMPLETING"]
    idle = [task for task in live if all(RunFolder(root / run).status() in ended for run in task.runs)]
    site.cancel([task.job for task in idle if task.job])
    return {"runs": found, "tasks": [task.job for task in idle]}
