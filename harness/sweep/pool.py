"""Local execution: one worker process per device slot, fed with packs until nothing is left to do.

The run folders decide: after every round the plan is made anew from them, so a worker that dies, a second
sweep on the same folder, or a lease that is lost need no bookkeeping here.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.config import Config, Execution, UserError
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec, run_id
from harness.records.lease import holder, slurm_job
from harness.sweep.display import Display
from harness.sweep.fits import remember, remembered
from harness.sweep.plan import Plan, make_plan, split
from harness.threads import environment

STOP_SECONDS = 120.0


def gpus() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES takes them; [] where there are none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    count = (
        sum(line.startswith("GPU ") for line in listing.stdout.splitlines()) if listing.returncode == 0 else 0
    )
    return [str(index) for index in range(count)]


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Slot:
    """Where a worker runs: its device and the environment that shows it no other."""

    device: str
    threads: int
    environment: dict[str, str]


def slots(execution: Execution) -> list[Slot]:
    """One slot per GPU, or one for the CPU; `jobs` asks for another number, which then share the devices."""
    if execution.device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device is auto, cpu or cuda, not '{execution.device}'")
    cards = [] if execution.device == "cpu" else gpus()
    if execution.device == "cuda" and not cards:
        raise UserError(
            "--device cuda: this machine shows no GPU (nvidia-smi -L lists none); use --device cpu"
        )
    count = execution.jobs or max(len(cards), 1)
    threads = execution.threads or max(cores() // count, 1)
    own = environment(threads)
    if not cards:
        return [Slot("cpu", threads, own)] * count
    return [
        Slot("cuda", threads, own | {"CUDA_VISIBLE_DEVICES": cards[k % len(cards)]}) for k in range(count)
    ]


class WorkerProcess:
    """The parent's end of one worker: sends commands, puts its events into the pool's queue."""

    def __init__(self, root: Path, slot: Slot, execution: Execution, log: Path, events: Events):
        log.parent.mkdir(parents=True, exist_ok=True)
        self.pack: list[str] = []
        self.ready = True
        with open(log, "ab") as errors:
            # Its own session: a Ctrl-C on the terminal reaches this process only, which then asks politely.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "harness.sweep.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                start_new_session=True,
                env=os.environ | slot.environment,
            )
        own = replace(execution, device=slot.device, threads=slot.threads)
        self.send({"root": str(root), "execution": asdict(own)})
        threading.Thread(target=self._listen, args=(events,), daemon=True).start()

    def send(self, message: dict[str, Any]) -> None:
        """Send a line; a worker that is gone shows by its "exit" event."""
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass

    def advance(self, pack: list[str]) -> None:
        """Give it a pack."""
        self.pack, self.ready = pack, False
        self.send({"do": "advance", "runs": pack})

    def stop(self) -> None:
        """Ask it to checkpoint and leave."""
        self.send({"do": "stop"})

    def _listen(self, events: Events) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                continue  # the last line of a killed worker
            events.put((self, event))
        events.put((self, {"event": "exit", "code": self.process.wait()}))


Events = queue.Queue[tuple[WorkerProcess, dict[str, Any]]]


@dataclass
class Outcome:
    """How a sweep ended."""

    done: list[str]
    failed: list[str]
    left: list[str]
    interrupted: bool


@dataclass(frozen=True)
class Measured:
    """Steps per second of all slots together, 0 where nothing was measured, and a pack's memory in MB."""

    rate: float
    memory: float


class Pool:
    """Advances the runs of `specs` under `root` until each is done or failed.

    `interrupted` is polled; once true, workers checkpoint and leave. A `scratch` pool measures only, and
    writes nothing. `patience`: seconds to wait for runs that another process holds, once nothing else is
    left. Use as a context manager: it ends its workers.
    """

    def __init__(
        self,
        root: Path,
        specs: Sequence[RunSpec],
        execution: Execution,
        interrupted: Callable[[], bool] = lambda: False,
        scratch: bool = False,
        patience: float = float("inf"),
    ):
        self.root = root
        self.specs = list(specs)
        self._by_id = {run_id(spec): spec for spec in self.specs}
        self.execution = execution
        self.interrupted = interrupted
        self.log = Path(os.devnull) if scratch else root / "logs" / "workers.log"
        self.slots = slots(execution)
        device = self.slots[0].device
        self.limit = execution.pack or min((remembered(c, device) for c in self._configs()), default=1)
        self.events: Events = queue.Queue()
        self.workers: dict[WorkerProcess, Slot] = {}
        self.patience = patience

    def _configs(self) -> set[Config]:
        return {spec.config for spec in self.specs}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, at their next step; those that do not are killed."""
        for worker in self.workers:
            worker.stop()
        deadline = time.monotonic() + STOP_SECONDS
        for worker in self.workers:
            try:
                worker.process.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                worker.process.kill()
        self.workers.clear()

    def kill(self) -> None:
        """End all workers now; their runs resume from their last checkpoints."""
        for worker in self.workers:
            worker.process.kill()

    def plan(self, retry_failed: bool = False, asked: bool = False) -> Plan:
        """What is left to do now; the options are `make_plan`'s."""
        return make_plan(self.root, self.specs, self.limit, retry_failed, len(self.slots), asked=asked)

    def measure(self, plan: Plan, specs: dict[str, RunSpec]) -> Measured:
        """Steps per second of the whole pool, by a short measurement of the plan's first pack on one slot.

        The worker that measured stays, warm. Raises UserError where the runs cannot be started at all.
        """
        worker = self._start(self.slots[0])
        worker.ready = False
        worker.send({"do": "measure", "specs": [specs[run].model_dump(mode="json") for run in plan.packs[0]]})
        while not self.interrupted():
            try:
                _, event = self.events.get(timeout=0.2)
            except queue.Empty:
                continue
            if event["event"] == "measured":
                worker.ready = True
                return Measured(event["rate"] * min(len(self.slots), len(plan.packs)), event["memory"])
            if event["event"] in ("refused", "exit"):
                raise UserError(event.get("message") or self._died(worker, event["code"]))
        return Measured(0.0, 0.0)

    def run(self, display: Display) -> Outcome:
        """Advance everything; returns when nothing is left, or after an interruption."""
        waiting_since = 0.0
        while not self.interrupted():
            plan = self.plan()
            for run in plan.specless:  # lost since the sweep began; a worker goes by it
                RunFolder.create(self.root, self._by_id[run])
            if plan.packs:
                waiting_since = 0.0
                self._round(plan, display)
            elif plan.running:
                if not waiting_since:
                    waiting_since = time.monotonic()
                    display.say(
                        f"waiting for {len(plan.running)} runs that {self._who(plan.running)} is advancing"
                    )
                if time.monotonic() - waiting_since > self.patience:
                    break
                time.sleep(1.0)
            else:
                break
        self.close()
        plan = self.plan()
        left = [*plan.new, *plan.resume, *plan.running]
        return Outcome(plan.done, plan.failed, left, self.interrupted())

    def _round(self, plan: Plan, display: Display) -> None:
        """Feed the packs of one plan to the workers, until all have come back."""
        packs = deque(plan.packs)
        stopping = False
        while packs or any(not worker.ready for worker in self.workers):
            if self.interrupted() and not stopping:
                stopping = True
                packs.clear()
                display.note = "stopping"
                display.say("stopping: the runs are being checkpointed (Ctrl-C again to end at once)")
                for worker in self.workers:
                    worker.stop()
            if not stopping:
                self._feed(packs, display)
            try:
                worker, event = self.events.get(timeout=0.2)
            except queue.Empty:
                display.refresh()
                continue
            self._handle(worker, event, packs, plan, display)

    def _feed(self, packs: deque[list[str]], display: Display) -> None:
        idle = [worker for worker in self.workers if worker.ready]
        free = list(self.slots)
        for slot in self.workers.values():
            free.remove(slot)
        while packs and (idle or free):
            worker = idle.pop() if idle else self._start(free.pop(0))
            pack = packs.popleft()
            worker.advance(pack)
            display.note = f"{pack[0].split('-')[0]} × {len(pack)}"

    def _handle(
        self,
        worker: WorkerProcess,
        event: dict[str, Any],
        packs: deque[list[str]],
        plan: Plan,
        display: Display,
    ) -> None:
        kind = event["event"]
        if kind == "step":
            display.advance(event["steps_done"])
        elif kind == "done":
            display.runs_done += 1
            display.refresh()
        elif kind == "failed":
            display.runs_done += 1
            display.say(f"failed: {event['run']}: {event['reason']}")
        elif kind == "returned":
            worker.ready = True
            if "problem" in event:
                self._halve(worker.pack, event, packs, plan, display)
        elif kind == "refused":
            worker.ready = True
            raise UserError(event["message"])
        elif kind == "exit":
            del self.workers[worker]
            if not worker.ready and not self.interrupted():
                how = self._died(worker, event["code"])
                display.say(f"{how}; its {len(worker.pack)} runs will be resumed")
                for run in worker.pack:
                    RunFolder(self.root / run).record_death(why=how, host=socket.gethostname(), **slurm_job())

    def _halve(
        self, pack: list[str], event: dict[str, Any], packs: deque[list[str]], plan: Plan, display: Display
    ) -> None:
        half = max(len(pack) // 2, 1)
        if event["oom"]:
            self.limit = min(self.limit, half)
            if self.execution.pack is None:
                remember(RunFolder(self.root / pack[0]).spec().config, self.slots[0].device, half)
            too_large = [p for p in packs if len(p) > half]
            rest = [p for p in packs if len(p) <= half]
            packs.clear()
            packs.extend(rest)
            packs.extend(part for p in too_large for part in split(p, half, plan.steps_left))
            display.say(f"out of memory with {len(pack)} runs in a pack: going on with at most {half}")
        else:
            display.say(f"a pack of {len(pack)} runs stopped ({event['problem']}): trying it in halves")
        packs.extendleft(split(pack, half, plan.steps_left))

    def _start(self, slot: Slot) -> WorkerProcess:
        worker = WorkerProcess(self.root, slot, self.execution, self.log, self.events)
        self.workers[worker] = slot
        return worker

    def _died(self, worker: WorkerProcess, code: int) -> str:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"worker {worker.process.pid} {how} (see {self.log})"

    def _who(self, runs: Sequence[str]) -> str:
        for run in runs:
            lease = holder(self.root / run)
            if lease:
                return f"process {lease.get('pid')} on {lease.get('host')}"
        return "another process"
