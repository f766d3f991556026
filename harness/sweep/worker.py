"""One worker process of the pool: reads commands from stdin, writes events to stdout, one JSON object a line.

What they say is in harness.distill.events. The end of stdin means that the parent is gone, and stops too.
Stopping ends the pack at its next step, checkpointed.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import TextIO

from harness.config import Execution, UserError, named_line
from harness.distill import events
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec
from harness.records.reader import RecordError
from harness.records.tracking import leave
from harness.threads import wait_asleep

MEASURED_STEPS = 4
MEASURED_SECONDS = 2.0


class Worker:
    """Carries out commands until stopped."""

    def __init__(self, root: Path, execution: Execution, out: TextIO):
        self.root = root
        self.execution = execution
        self.out = out
        self.stop = threading.Event()
        self.commands: queue.Queue[events.Advance | events.Measure | None] = queue.Queue()

    def emit(self, event: events.Event) -> None:
        """Tell the parent; a parent that is gone stops the worker."""
        try:
            self.out.write(event.model_dump_json() + "\n")
            self.out.flush()
        except (BrokenPipeError, ValueError):
            self.stop.set()

    def listen(self) -> None:
        """Read commands until the parent says stop or is gone."""
        try:
            for line in sys.stdin:
                command = events.COMMAND.validate_json(line)
                if isinstance(command, events.Stop):
                    break
                self.commands.put(command)
        finally:  # the last line of a parent that is killed may be half a line
            self.stop.set()
            self.commands.put(None)

    def work(self) -> None:
        """The main loop; returns when stopped."""
        threading.Thread(target=self.listen, name="commands", daemon=True).start()
        self.emit(events.Ready())
        while not self.stop.is_set():
            command = self.commands.get()
            if command is None:
                break
            try:
                self.emit(
                    self.measure(command.specs, command.kinds)
                    if isinstance(command, events.Measure)
                    else self.advance(command.runs)
                )
            except UserError as error:
                self.emit(events.Refused(message=str(error)))

    def advance(self, runs: list[str]) -> events.Returned:
        """Advance a pack.

        A single run that cannot be advanced is failed: nobody else can be the cause.
        """
        from harness.distill.runner import PackTooLarge, advance

        try:
            advance(self.root, runs, self.execution, self.emit, self.stop.is_set)
        except Exception as error:
            if isinstance(error, UserError) and not isinstance(error, RecordError):
                raise  # every run's own; a record is one run's
            oom = isinstance(error, PackTooLarge)
            traceback.print_exc()
            reason = named_line(error)
            if len(runs) > 1:
                return events.Returned(problem=reason, oom=oom)
            folder = RunFolder(self.root / runs[0])
            if folder.status() in ("new", "resume"):
                step, detail = folder.state().get("step", 0), traceback.format_exc()
                folder.fail("out of memory" if oom else f"error: {reason}", step, detail)
                folder.log(f"failed: {reason}")
            elif folder.status() == "damaged":
                reason = f"damaged: {folder.damage()}"
            self.emit(events.Failed(run=runs[0], reason=reason))
        return events.Returned()

    def measure(self, specs: list[RunSpec], kinds: list[RunSpec]) -> events.Measured:
        """A pack of these runs over a few steps, in a folder that is thrown away.

        `kinds` are runs that are only looked at, one of every method and configuration: UserError where one
        cannot be begun. Without `specs` nothing else is done.
        """
        from harness.device import peak_memory_mb
        from harness.distill.assemble import check
        from harness.distill.runner import PackTooLarge, advance

        for spec in kinds:
            try:
                check(spec, self.execution)
            except UserError:
                raise
            except Exception:  # the method's own: it fails its runs, and nobody else's
                traceback.print_exc()
        if not specs:
            return events.Measured()
        ends: list[float] = []
        reasons: list[str] = []

        def emit(event: events.Told) -> None:
            if isinstance(event, events.Stepped):
                ends.append(time.monotonic())
            elif isinstance(event, events.Failed):
                reasons.append(event.reason)

        def enough() -> bool:
            # The first step also compiles, loads and allocates.
            seen = len(ends) - 1
            return (
                self.stop.is_set()
                or seen >= MEASURED_STEPS
                or (seen > 0 and ends[-1] - ends[0] > MEASURED_SECONDS)
            )

        seldom = {"log_every": 1_000_000, "checkpoint_every": 1_000_000}
        aside = self.execution.model_copy(update={"wandb": "disabled", **seldom})
        with tempfile.TemporaryDirectory(prefix="harness-measure-") as folder:
            runs = [RunFolder.create(folder, spec).id for spec in specs]
            try:
                advance(Path(folder), runs, aside, emit, enough)
            except UserError:
                raise
            except Exception as error:
                traceback.print_exc()
                return events.Measured(problem=named_line(error), oom=isinstance(error, PackTooLarge))
        if reasons:
            return events.Measured(problem=reasons[0])
        rate = len(specs) * (len(ends) - 1) / (ends[-1] - ends[0]) if len(ends) > 1 else 0.0
        return events.Measured(rate=rate, memory=peak_memory_mb(self.execution.device))


def main() -> None:
    """Entry of `python -m harness.sweep.worker`; the first line of stdin is a `Setup`."""
    wait_asleep()
    # Ctrl-C is the parent's to handle: it asks this process to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Libraries that print must not write into the event stream.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    setup = events.Setup.model_validate_json(sys.stdin.readline())
    worker = Worker(setup.root, setup.execution, out)
    # Slurm signals every process of a job: USR2 ahead of a time limit or a preemption, TERM to end it.
    for ending in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(ending, lambda *_: (worker.stop.set(), worker.commands.put(None)))
    worker.work()
    leave()
    out.close()
    sys.stderr.flush()
    os._exit(0)  # W&B's own goodbye has no end where its service hangs, and a job would pay for that


if __name__ == "__main__":
    main()
