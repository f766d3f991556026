"""A run's log: metrics.jsonl, which is the truth, and its W&B mirror, which follows it beside the loop.

One thread per process speaks to W&B. It is told up to which step each run is settled, and reads the rows
from the run folders: nothing is queued, nothing waits for it, and a slow server is only ever behind. Where
W&B fails, the mirror of that run stops for this stretch; `harness sync` completes it.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from harness.config import UserError, first_line
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec
from harness.records.mirror import PROJECT, Mirror, Mode, Place, steps_of

LEAVE_SECONDS = 30.0  # for runs that end, and once more for what is being closed
AWAY_SECONDS = 600.0  # no run is opened for so long after the server did not answer


def default_mode() -> Mode:
    """What W&B does unless told otherwise: WANDB_MODE or WANDB_DISABLED, else online with WANDB_API_KEY and
    offline without."""
    wanted = os.environ.get("WANDB_MODE", "")
    if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes"):
        wanted = "disabled"
    if wanted in ("disabled", "dryrun", "offline"):
        return "disabled" if wanted == "disabled" else "offline"
    return "online" if os.environ.get("WANDB_API_KEY") else "offline"


class Tracker:
    """Logs one run. Made after the folder is back at its checkpoint; nothing here waits for W&B.

    A row is mirrored once it is settled, by a checkpoint or by the run's end: a resumed run writes what came
    after its checkpoint anew, and W&B cannot take a row back. An offline W&B run cannot resume, so every
    stretch of a run tells the whole story up to then, with explicit steps, under the run's one id.
    """

    def __init__(
        self,
        folder: RunFolder,
        spec: RunSpec,
        mode: Mode = "offline",
        *,
        study: str = PROJECT,
        sweep: str = "sweep",
    ):
        self.folder = folder
        rows = folder.metrics()
        self._spent = float(rows[-1].get("time") or 0.0) if rows else 0.0
        self._started = time.monotonic()
        self._mirrored: _Mirrored | None = None
        if mode == "online" and not os.environ.get("WANDB_API_KEY"):
            folder.log("W&B: no WANDB_API_KEY, so the mirror stays offline")
            mode = "offline"
        place = Place(study, sweep)
        if mode != "disabled" or study != PROJECT:
            place = place.keep(folder.path.parent)
        if mode != "disabled":
            settled = rows[-1]["step"] if rows else -1
            self._mirrored = _Mirrored(folder, lambda: Mirror(folder, spec, mode, place), settled)
            _follower().add(self._mirrored)

    def seconds(self) -> float:
        """Wall seconds this run has been worked on, over all its stretches."""
        return self._spent + time.monotonic() - self._started

    def log(self, step: int, scalars: Mapping[str, float | int | None]) -> None:
        """Append a row {step, time, **scalars}; raises only what writing the local file raises."""
        row = {"step": int(step), "time": round(self.seconds(), 3), **scalars}
        self.folder.append_metrics([row])

    def settle(self, step: int) -> None:
        """Say that a checkpoint covers all up to `step`, so that W&B may have it."""
        if self._mirrored is not None:
            _follower().settle(self._mirrored, step)

    def finish(self) -> None:
        """Give the mirror the run's end, where it ended, and let go of it; a run that was lost gets none."""
        if self._mirrored is not None:
            mirrored, self._mirrored = self._mirrored, None
            ended = self.folder.ours() and self.folder.status() in ("done", "failed")
            _follower().finish(mirrored, ended)


def leave(seconds: float = LEAVE_SECONDS) -> None:
    """Wait for the mirrors of all finished runs, at most so long; the logs of the others say so.

    For the end of a process; it is also called when the interpreter exits.
    """
    if _the_follower is not None:
        _the_follower.wait(seconds)


@dataclass(eq=False)
class _Mirrored:
    """What the thread knows of a run: how far it may go, and whether it is over."""

    folder: RunFolder
    open_mirror: Callable[[], Mirror]
    settled: int
    mirror: Mirror | None = None
    followed: int | None = None  # what W&B was told of; None before it is open
    finishing: bool = False
    ended: bool = False
    closing: bool = False
    given_up: bool = False

    @property
    def due(self) -> bool:
        """Whether there is anything to do."""
        return not self.closing and (self.finishing or self.followed != self.settled)


class _Follower:
    """The thread that speaks to W&B; what is public here is called by the loop and returns at once."""

    def __init__(self) -> None:
        self._runs: list[_Mirrored] = []
        self._changed = threading.Condition()
        self._closing: dict[str, threading.Thread] = {}  # by run id; used by the thread alone
        self._away_until = float("-inf")
        threading.Thread(target=self._work, name="wandb mirror", daemon=True).start()

    def add(self, run: _Mirrored) -> None:
        with self._changed:
            self._runs.append(run)
            self._changed.notify_all()

    def settle(self, run: _Mirrored, step: int) -> None:
        with self._changed:
            run.settled = max(run.settled, step)
            self._changed.notify_all()

    def finish(self, run: _Mirrored, ended: bool) -> None:
        with self._changed:
            run.finishing, run.ended = True, ended
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Until every finished run is closed; those that are not after so long are given up.

        What is being closed all the same gets as long again: W&B must not be torn down meanwhile, since its
        service then waits for ever.
        """
        with self._changed:
            self._changed.wait_for(lambda: not any(run.finishing for run in self._runs), seconds)
            late = [run for run in self._runs if run.finishing]
        for run in late:
            self._give_up(run, f"not at the server after {seconds:.0f} s")
        deadline = time.monotonic() + seconds
        for thread in list(self._closing.values()):
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: any(run.due for run in self._runs))
                run = next(run for run in self._runs if run.due)
                settled, finishing, ended = run.settled, run.finishing, run.ended
                self._runs.remove(run)  # to the end: each in its turn
                self._runs.append(run)
            try:
                self._advance(run, settled, finishing, ended)
            except Exception as error:
                self._tell(run, first_line(error))
                self._close(run)
                self._remove(run)

    def _advance(self, run: _Mirrored, settled: int, finishing: bool, ended: bool) -> None:
        if run.mirror is None:
            run.mirror = self._open(run)
        run.mirror.follow(settled)
        run.followed = settled
        if not finishing:
            return
        if ended:
            run.mirror.follow(max(steps_of(run.folder), default=-1))
            run.mirror.end()
        self._close(run)

    def _open(self, run: _Mirrored) -> Mirror:
        if time.monotonic() < self._away_until:
            raise TimeoutError("the server did not answer a moment ago")
        from wandb.errors import CommError

        if before := self._closing.pop(run.folder.id, None):
            before.join()  # W&B has no two of one id in a process
        try:
            mirror = run.open_mirror()
        except (CommError, TimeoutError):
            self._away_until = time.monotonic() + AWAY_SECONDS
            raise
        # What is registered last is called first: before W&B's own handler, which closes the connection.
        atexit.unregister(leave)
        atexit.register(leave)
        return mirror

    def _close(self, run: _Mirrored) -> None:
        """Close the mirror beside the others: runs end together, and each waits for the server."""
        run.closing = True
        if run.mirror is None:
            return

        def close(mirror: Mirror) -> None:
            try:
                mirror.close()
            except Exception as error:
                self._give_up(run, first_line(error))
            else:
                self._remove(run)

        thread = threading.Thread(target=close, args=[run.mirror], name="wandb finish", daemon=True)
        self._closing[run.folder.id] = thread
        thread.start()

    def _give_up(self, run: _Mirrored, reason: str) -> None:
        self._tell(run, reason)
        self._remove(run)

    def _tell(self, run: _Mirrored, reason: str) -> None:
        with self._changed:
            first, run.given_up = not run.given_up, True
        if first:
            line = f"W&B: mirror stopped ({reason}); `harness sync {run.folder.path.parent}` completes it"
            with suppress(UserError, OSError):  # a full disk is the loop's to tell
                run.folder.log(line)

    def _remove(self, run: _Mirrored) -> None:
        with self._changed:
            run.closing = True
            if run in self._runs:
                self._runs.remove(run)
            self._changed.notify_all()


_the_follower: _Follower | None = None


def _follower() -> _Follower:
    global _the_follower
    if _the_follower is None:
        _the_follower = _Follower()
        atexit.register(leave)
    return _the_follower
