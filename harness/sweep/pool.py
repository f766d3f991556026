"""Local execution: one worker process per device slot, fed with packs until nothing is left to do.

The run folders decide: after every round the plan is made anew from them, so a worker that dies, a second
sweep on the same folder, or a lease that is lost need no bookkeeping here.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from harness.config import Config, Execution, UserError
from harness.device import gpus, say_that_gpus_are_hidden
from harness.distill import events
from harness.distill.method import load_method
from harness.records.environment import own_code
from harness.records.files import make_folder
from harness.records.folder import RunFolder
from harness.records.identity import COMPOSED, RunSpec, canonical_json, run_id
from harness.records.lease import holder, slurm_job
from harness.records.reader import RecordError, tail
from harness.sweep.display import Display
from harness.sweep.fits import remember, remembered
from harness.sweep.pace import Paces
from harness.sweep.plan import Plan, make_plan, split
from harness.sweep.versions import code_now
from harness.threads import cores, environment

STOP_SECONDS = 120.0
SEEN_SECONDS = 5.0  # that a pack has to take for its pace to be remembered
SOON_SECONDS = 60.0  # a sweep that is over by then is not measured first, where paces are remembered


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
            "--device cuda: CUDA shows no GPU here (nvidia-smi -L, CUDA_VISIBLE_DEVICES); "
            "use --device cpu, or auto"
        )
    if execution.device == "auto" and not cards:
        say_that_gpus_are_hidden()
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

    def __init__(self, root: Path, slot: Slot, execution: Execution, log: Path, told: Events):
        make_folder(log.parent)
        self.pack: list[str] = []
        self.first_step = 0.0  # of its pack, when
        self.has_stepped = False
        self.steps = 0  # taken since, over all runs
        self.ready = True
        self.has_begun = False  # whether it has told that it could be started at all
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
                env=os.environ | slot.environment | own_code(),
            )
        own = execution.model_copy(update={"device": slot.device, "threads": slot.threads})
        self.send(events.Setup(root=root, execution=own))
        threading.Thread(target=self._listen, args=(told,), daemon=True).start()

    def send(self, message: events.Setup | events.Command) -> None:
        """Send a line; a worker that is gone shows by its `Exited`."""
        assert self.process.stdin
        with suppress(BrokenPipeError, ValueError):
            self.process.stdin.write(message.model_dump_json() + "\n")
            self.process.stdin.flush()

    def advance(self, pack: list[str]) -> None:
        """Give it a pack."""
        self.pack, self.ready = pack, False
        self.first_step, self.steps = 0.0, 0
        self.send(events.Advance(runs=pack))

    def stop(self) -> None:
        """Ask it to checkpoint and leave."""
        self.send(events.Stop())

    def _listen(self, told: Events) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            with suppress(ValidationError):  # the last line of a killed worker
                told.put((self, events.EVENT.validate_json(line)))
        told.put((self, Exited(self.process.wait())))


def last_line(path: Path) -> str:
    """The last line of a text that says something."""
    lines = []
    with suppress(OSError, RecordError):
        lines = tail(path.parent, path.name, 4096).decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "without a word")


@dataclass(frozen=True)
class Exited:
    """A worker has ended, with this code."""

    code: int


Events = queue.Queue[tuple[WorkerProcess, events.Event | Exited]]


@dataclass
class Outcome:
    """How a sweep ended."""

    done: list[str]
    failed: list[str]
    left: list[str]
    interrupted: bool


@dataclass(frozen=True)
class Pace:
    """Steps per second of all slots together, 0 where nothing was measured, and a pack's memory in MB;
    `notes` say what could not be measured and why; `how` it is known."""

    rate: float
    memory: float
    notes: tuple[str, ...] = ()
    how: str = "measured"


def _kind(spec: RunSpec) -> tuple[str, str, Config]:
    """What is alike in the runs of a pack."""
    return spec.method, canonical_json(spec.alike), spec.config


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
        self.is_scratch = scratch
        self.log = root / "logs" / "workers.log"
        if scratch:  # kept as long as somebody may ask why a worker died
            self._scratch = tempfile.TemporaryDirectory(prefix="harness-scratch-")
            self.log = Path(self._scratch.name) / "workers.log"
        self.slots = slots(execution)
        device = self.slots[0].device
        kinds = {_kind(spec): spec for spec in self.specs}
        self._most = {kind: execution.pack or remembered(spec, device) for kind, spec in kinds.items()}
        self.events: Events = queue.Queue()
        self.workers: dict[WorkerProcess, Slot] = {}
        self.patience = patience
        self.code = code_now(execution.methods_dirs)
        self.paces = Paces(device, self.slots[0].threads, self.code)
        costs = {name: self._cost(name) for name in {spec.method for spec in self.specs}}
        self._costs = {run: costs[spec.method] for run, spec in self._by_id.items()}

    def _cost(self, method: str) -> float:
        """What a step costs beside others': its denoiser evaluations, as far as the method says."""
        try:
            dirs = [Path(each) for each in self.execution.methods_dirs]
            return sum(load_method(method, dirs).nfe_range()) / 2
        except UserError:
            return 2.0  # its own runs will tell

    def work(self, plan: Plan) -> float:
        """All steps that are left, each weighted by what it costs."""
        return sum(steps * self._costs[run] for run, steps in plan.steps_left.items())

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
        code = self.code if asked else None
        slots = len(self.slots)
        return make_plan(self.root, self.specs, self.most, retry_failed, slots, asked=asked, code=code)

    def most(self, spec: RunSpec) -> int:
        """The most runs in a pack of this kind."""
        return self._most[_kind(spec)]

    def pace(self, plan: Plan) -> Pace:
        """Steps per second of the whole pool: as before where that is soon over or was seen a moment ago,
        else measured now.

        The machine may have been busier then; what lasts is how methods compare, and `measure` keeps it.
        Methods that never ran here are begun, at least. Raises UserError where that cannot be.
        """
        known = self.known_pace(plan)
        packs = [(self._by_id[pack[0]], len(pack)) for pack in plan.packs]
        soon = known is not None and sum(plan.steps_left.values()) < known.rate * SOON_SECONDS
        fresh = any(self.paces.is_fresh(spec, runs) for spec, runs in packs)
        if known is None or not (soon or fresh):
            return self.measure(plan)
        # Of `a@b` what is known is a's: b's settings may be others.
        if not all(self.paces.known(spec, runs) and COMPOSED not in spec.method for spec, runs in packs):
            begun = self._measured([], self._one_each(plan))
            if begun is None:  # interrupted
                return Pace(0.0, 0.0)
            self._keep_guesses(plan, self._rates(plan))
        return known

    def known_pace(self, plan: Plan) -> Pace | None:
        """Steps per second of the whole pool by what packs did here before; None where none of its prior and
        scene did anything."""
        rates = self._rates(plan)
        if not all(rates) or not rates:
            return None
        return Pace(self._together(plan, rates), 0.0, how="as before")

    def _rates(self, plan: Plan) -> list[float]:
        """Steps per second of each pack by what it did here, else by what others did and by evaluations; 0
        where neither is known."""
        rates = []
        for pack in plan.packs:
            spec, runs = self._by_id[pack[0]], len(pack)
            others = (self.paces.evaluations(spec, runs) or 0.0) / self._cost(spec.method)
            rates.append(self.paces.known(spec, runs) or others)
        return rates

    @property
    def is_new_here(self) -> bool:
        """Whether nothing of the kind was ever advanced on this machine, whose first start compiles."""
        return not any(self.paces.evaluations(spec, 1) for spec in self.specs[:1])

    def _together(self, plan: Plan, rates: Sequence[float]) -> float:
        """Steps per second of all slots, over all packs, from each pack's own on one slot.

        A pack that has only its end left to be written counts as one step.
        """
        left = [max(sum(plan.steps_left[run] for run in pack), 1) for pack in plan.packs]
        seconds = sum(steps / rate for steps, rate in zip(left, rates, strict=True))
        return min(len(self.slots), len(plan.packs)) * sum(left) / seconds

    def _compared(self, plan: Plan, spec: RunSpec, runs: int, rate: float) -> list[float]:
        """Steps per second of each pack, given one's: by what both did here before, else by evaluations."""
        before = self.paces.known(spec, runs)
        rates = []
        for pack in plan.packs:
            theirs = self.paces.known(self._by_id[pack[0]], len(pack)) if before else None
            cost = self._cost(spec.method) / self._costs[pack[0]]
            rates.append(rate * (theirs / before if theirs and before else cost))
        return rates

    def measure(self, plan: Plan) -> Pace:
        """Steps per second of the whole pool, by a short measurement of a pack on one slot.

        Of the first method that can be measured: a pack that does not fit is halved, and so are all later
        ones of its kind; a method that fails is left out, with its reason, and will fail where it is run. The
        worker that measured stays, warm. Raises UserError where the runs cannot be started at all.
        """
        specs = self._by_id
        packs = {specs[pack[0]].label: pack for pack in reversed(plan.packs)}
        one_each = self._one_each(plan)
        notes: list[str] = []
        for name, pack in reversed(packs.items()):
            while True:
                event = self._measured([specs[run] for run in pack], one_each)
                if event is None:  # interrupted
                    return Pace(0.0, 0.0, tuple(notes))
                if not event.oom or len(pack) == 1:
                    break
                pack = pack[: len(pack) // 2]
                self._fits(specs[pack[0]], len(pack))
                notes.append(f"{name}: out of memory with more than {len(pack)} runs in a pack")
            if event.rate:
                rates = self._compared(plan, specs[pack[0]], len(pack), event.rate)
                self._keep_pace(specs[pack[0]], len(pack), event.rate)
                self._keep_guesses(plan, rates)
                return Pace(self._together(plan, rates), event.memory, tuple(notes))
            notes.append(f"{name} cannot be measured: {event.problem or 'it took no step in time'}")
            one_each = []  # they were looked at
        return Pace(0.0, 0.0, tuple(notes))

    def _one_each(self, plan: Plan) -> list[RunSpec]:
        """A run of every kind and setting that is to be begun."""
        specs = [self._by_id[run] for run in plan.todo]
        return list({(_kind(spec), canonical_json(spec.params)): spec for spec in specs}.values())

    def _keep_pace(self, spec: RunSpec, runs: int, rate: float) -> None:
        self.paces.keep(spec, runs, rate, self._cost(spec.method))

    def _keep_guesses(self, plan: Plan, rates: Sequence[float]) -> None:
        """Packs that never ran here are taken to do what they were compared to."""
        for pack, rate in zip(plan.packs, rates, strict=True):
            if self.paces.known(self._by_id[pack[0]], len(pack)) is None:
                self._keep_pace(self._by_id[pack[0]], len(pack), rate)

    def _measured(self, pack: list[RunSpec], kinds: list[RunSpec]) -> events.Measured | None:
        """What a worker says of a pack, after a look at one run of every kind; None once interrupted."""
        idle = [worker for worker in self.workers if worker.ready]
        worker = idle[0] if idle else self._start(self.slots[0])
        worker.ready = False
        worker.send(events.Measure(specs=pack, kinds=kinds))
        while not self.interrupted():
            try:
                _, event = self.events.get(timeout=0.2)
            except queue.Empty:
                continue
            match event:
                case events.Ready():
                    worker.has_begun = True
                case events.Measured():
                    worker.ready = True
                    return event
                case events.Refused(message=message):
                    raise UserError(message)
                case Exited(code):
                    del self.workers[worker]
                    how = self._died(worker, code)
                    if not worker.has_begun:
                        raise UserError(how)
                    return events.Measured(problem=how, oom=code == -signal.SIGKILL)
        return None

    def _fits(self, spec: RunSpec, runs: int) -> None:
        """So many runs are the most in a pack of this kind from now on."""
        self._most[_kind(spec)] = min(self.most(spec), runs)
        if self.execution.pack is None and not self.is_scratch:
            remember(spec, self.slots[0].device, runs)

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
        event: events.Event | Exited,
        packs: deque[list[str]],
        plan: Plan,
        display: Display,
    ) -> None:
        match event:
            case events.Ready():
                worker.has_begun = True
            case events.Stepped(runs=runs):
                if not worker.has_stepped:
                    worker.has_stepped = True
                    display.begin()
                display.advance(len(runs), sum(self._costs[run] for run in runs))
                worker.steps += len(runs) if worker.first_step else 0
                worker.first_step = worker.first_step or time.monotonic()
            case events.Finished():
                display.runs_done += 1
                display.refresh()
            case events.Failed(run=run, reason=reason):
                display.runs_done += 1
                display.say(f"failed: {run}: {reason}")
            case events.Returned():
                worker.ready = True
                spent = time.monotonic() - worker.first_step
                if worker.first_step and worker.steps and spent > SEEN_SECONDS:
                    self._keep_pace(self._by_id[worker.pack[0]], len(worker.pack), worker.steps / spent)
                if event.problem:
                    self._halve(worker.pack, event, packs, plan, display)
            case events.Refused(message=message):
                worker.ready = True
                raise UserError(message)
            case Exited(code):
                del self.workers[worker]
                if not worker.ready and not self.interrupted():
                    self._resume(worker, self._died(worker, code), display)

    def _resume(self, worker: WorkerProcess, how: str, display: Display) -> None:
        """A worker died on its pack, whose runs go on elsewhere; UserError where none can be started."""
        if not worker.has_begun:
            raise UserError(how)
        display.say(f"{how}; its {len(worker.pack)} runs will be resumed")
        for run in worker.pack:
            RunFolder(self.root / run).record_death(why=how, host=socket.gethostname(), **slurm_job())

    def _halve(
        self, pack: list[str], event: events.Returned, packs: deque[list[str]], plan: Plan, display: Display
    ) -> None:
        half = max(len(pack) // 2, 1)
        if event.oom:
            spec = self._by_id[pack[0]]
            self._fits(spec, half)
            planned = list(packs)
            packs.clear()
            for later in planned:
                packs.extend(split(later, self.most(self._by_id[later[0]]), plan.steps_left))
            told = f"{len(pack)} runs of {spec.label} in a pack"
            display.say(f"out of memory with {told}: going on with at most {half} of these")
        else:
            display.say(f"a pack of {len(pack)} runs stopped ({event.problem}): trying it in halves")
        packs.extendleft(split(pack, half, plan.steps_left))

    def _start(self, slot: Slot) -> WorkerProcess:
        worker = WorkerProcess(self.root, slot, self.execution, self.log, self.events)
        self.workers[worker] = slot
        return worker

    def _died(self, worker: WorkerProcess, code: int) -> str:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        why = f": {last_line(self.log)}" if code > 0 else ""
        return f"worker {worker.process.pid} {how}{why}" + ("" if self.is_scratch else f" (see {self.log})")

    def _who(self, runs: Sequence[str]) -> str:
        for run in runs:
            lease = holder(self.root / run)
            if lease:
                return f"process {lease.get('pid')} on {lease.get('host')}"
        return "another process"
