"""Advances one pack of runs from their checkpoints to their results: take, begin, step, record, retire."""

import gc
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from harness.config import Execution, named_line
from harness.device import be_deterministic, peak_memory_mb, pick_device
from harness.distill import assemble, contract, events
from harness.distill.contract import MethodError
from harness.distill.member import Emit, Member
from harness.distill.method import Method
from harness.distill.method import code_of as method_code
from harness.distill.step import Pack, StepReport, evaluation_latents, step
from harness.records.environment import snapshot
from harness.records.folder import RunFolder
from harness.records.identity import canonical_json
from harness.records.lease import LeaseLost
from harness.records.reader import RecordError
from harness.rng import Key
from harness.scene.cameras import evaluation
from harness.scene.encoders import choose_encoder
from harness.scene.kind import code_of as scene_code
from harness.scene.kind import look_in
from harness.threads import torch_threads

DIVERGED = "diverged: non-finite render or gradient"


class PackTooLarge(Exception):
    """`runs` runs did not fit into memory together; they are as their last checkpoints say."""

    def __init__(self, runs: int, peak_mb: float):
        noun = "run does" if runs == 1 else "runs do"
        super().__init__(f"{runs} {noun} not fit into memory (peak {peak_mb:.0f} MB)")
        self.runs = runs


def advance(
    root: Path | str,
    run_ids: Sequence[str],
    execution: Execution,
    emit: Emit = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Advance these runs (one method, one config; `RunSpec.alike` is alike) until each is done, failed, or
    taken by somebody else.

    Runs that are done, failed or held by another process are passed over. `emit` is told of every step; where
    `should_stop` turns true, the runs are checkpointed and given free. Raises UserError, PackTooLarge where
    the runs did not fit into memory, and what a method raises; the runs are as their last checkpoints say.
    """
    look_in(execution.scenes_dirs)
    members: list[Member] = []
    try:
        for run_id in run_ids:
            member = Member.acquire(RunFolder(Path(root) / run_id), execution, emit)
            if member is not None:
                members.append(member)
        if members:
            with torch_threads(execution.threads):
                _advance(members, execution, emit, should_stop)
    finally:
        for member in members:
            member.leave()


def _advance(
    members: Sequence[Member], execution: Execution, emit: Emit, should_stop: Callable[[], bool]
) -> None:
    """Step until nobody is left. An error that may not be every run's own is raised and fails no run."""
    device, here, too_large = torch.device(pick_device(execution.device)), list(members), False
    if execution.deterministic:
        be_deterministic()
    try:
        _begin(here, execution, device, emit, should_stop)
    except MethodError as error:
        _blame(here, error)
    except (MemoryError, RuntimeError) as error:
        too_large = _out_of_memory(error)
        if not too_large:
            raise
    finally:  # the next, smaller pack needs the memory
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if too_large:  # raised here, where no traceback holds on to the pack's tensors
        raise PackTooLarge(len(members), peak_memory_mb(device))


def _begin(
    members: list[Member],
    execution: Execution,
    device: torch.device,
    emit: Emit,
    should_stop: Callable[[], bool],
) -> None:
    """Make a pack of all members, from their checkpoints or from their keys, and go on with it.

    A member whose checkpoint is unusable fails and leaves.
    """
    for member in members:
        member.check(members[0])
    spec = members[0].spec
    guidance = assemble.load_guidance(spec.config, device)
    assemble.check_resolution(spec.config, guidance)
    checkpoints: list[assemble.Checkpoint | None] = []
    for member in list(members):
        try:
            checkpoints.append(member.folder.load_checkpoint())
        except RecordError as error:
            member.fail(str(error))
            members.remove(member)
    if not members:
        return
    for member, checkpoint in zip(members, checkpoints, strict=True):
        if checkpoint:
            member.folder.check_prior(guidance.record)
    encoder = choose_encoder(str(device), execution.encoder)
    compiled = guidance.is_compiled
    code = method_code(spec.method, execution.methods_dirs) | scene_code(spec.config.scene.kind)
    environment = snapshot(str(device), prior=guidance.record, encoder=encoder, compiled=compiled, code=code)
    for member, checkpoint in zip(members, checkpoints, strict=True):
        member.begin(checkpoint[1] if checkpoint else 0, environment)
    made: dict[str, Method] = {}  # by their settings, which differ in the schedule's alone
    for each in (member.spec for member in members):
        name = canonical_json(each.params)
        made[name] = made.get(name) or assemble.make_method(
            spec.config, guidance, each.method, each.params, execution.methods_dirs
        )
    schedules = [made[canonical_json(member.spec.params)] for member in members]
    keys = [Key(member.spec.prompt, member.spec.seed) for member in members]
    pack = assemble.make_pack(
        spec.config, guidance, schedules[0], keys, execution.encoder, checkpoints, schedules
    )
    del checkpoints
    _Stretch(members, pack, emit).go(should_stop)


class _Stretch:
    """What this process does of a pack's way; the members and the runs of the pack are in the same order."""

    def __init__(self, members: list[Member], pack: Pack, emit: Emit):
        self.members, self.pack, self.emit = members, pack, emit
        self.device = pack.guidance.device

    def go(self, should_stop: Callable[[], bool]) -> None:
        """Step and record until nobody is left, or until it is stopped."""
        self._retire()
        while self.members:
            if should_stop():
                _each(self.members, range(len(self.members)), self._save_checkpoint)
                return
            report = self._step()
            if report is None:
                return
            self._record(report)

    def _step(self) -> StepReport | None:
        """A step of all; None where it has failed the only run."""
        for member in self.members:
            member.step += 1
        try:
            return step(self.pack)
        except MethodError:
            raise
        except Exception as error:
            if len(self.members) > 1 or _out_of_memory(error):
                raise  # which run is to blame shows in smaller packs
            reason, detail = named_line(error), traceback.format_exc()
            _each(self.members, [0], lambda r: self.members[r].fail(reason, detail))
            return None

    def _record(self, report: StepReport) -> None:
        """Write what is due after a step, and let runs go that diverged, were lost, or are done."""
        members, ids = self.members, self._ids()
        logged = {r for r, member in enumerate(members) if member.logs}
        viewed = {r for r, member in enumerate(members) if member.has_views}
        kept = {r for r, member in enumerate(members) if member.needs_checkpoint}
        gone: set[int] = set()
        # To look at a GPU's numbers is to wait for it: only before something of them is written.
        if self.device.type == "cpu" or logged | kept:
            at = report.diverged_R.tolist()
            gone |= {r for r in range(len(members)) if at[r]}
            _each(members, gone, lambda r: members[r].fail(DIVERGED, step=at[r]))
        gone |= _each(members, logged - gone, lambda r: members[r].log(report.scalars(r)))
        gone |= self._save_views(sorted(viewed - gone))
        gone |= self._fail_unlearned(kept - gone)
        gone |= _each(members, kept - gone, self._save_checkpoint)
        gone |= _each(members, logged - gone, lambda r: members[r].save_state(peak_memory_mb(self.device)))
        self.emit(events.Stepped(runs=ids))
        self._retire(gone)

    def _save_views(self, runs: Sequence[int]) -> set[int]:
        if not runs:
            return set()
        latents = evaluation_latents(self.pack, evaluation(self.pack.config.views), runs)
        images = self.pack.guidance.decode(latents.flatten(0, 1)).mul(255).round().to(torch.uint8).cpu()
        images = images.permute(0, 2, 3, 1).unflatten(0, latents.shape[:2]).numpy()
        by_run = dict(zip(runs, images, strict=True))

        def save(r: int) -> None:
            params = {name: value[r] for name, value in self.pack.params.items()}
            self.members[r].save_views(by_run[r], params)

        return _each(self.members, runs, save)

    def _fail_unlearned(self, runs: Iterable[int]) -> set[int]:
        """Fail the runs whose method has learned what is not finite, which a checkpoint would keep."""
        state = self.pack.method_state()
        named = {r: name for r in runs if (name := contract.not_finite(state, r))}
        reason = "diverged: non-finite {} in the method's state"
        _each(self.members, named, lambda r: self.members[r].fail(reason.format(named[r])))
        return set(named)

    def _save_checkpoint(self, r: int) -> None:
        if self.members[r].step != self.members[r].checkpoint_at:
            self.members[r].save_checkpoint(assemble.saved(self.pack, r))

    def _retire(self, gone: Iterable[int] = ()) -> None:
        """Finish the runs that are done, and go on with the pack without them and without the `gone`."""
        gone = set(gone)
        done = {r for r, member in enumerate(self.members) if member.is_last}
        _each(self.members, done - gone, self._finish)
        gone |= done
        if not gone:
            return
        for r in gone:
            self.members[r].leave()
        stay = [r for r in range(len(self.members)) if r not in gone]
        self.members[:] = [self.members[r] for r in stay]
        if stay:
            self.pack.keep(stay)

    def _finish(self, r: int) -> None:
        guidance = self.pack.guidance
        told = {"prior": guidance.record, "device": str(self.device)}
        memory = {"peak_memory_mb": peak_memory_mb(self.device)}
        self.members[r].finish(assemble.saved_params(self.pack, r), told | memory)

    def _ids(self) -> tuple[str, ...]:
        return tuple(member.folder.id for member in self.members)


def _each(members: Sequence[Member], runs: Iterable[int], action: Callable[[int], None]) -> set[int]:
    """`action` on these runs, in order; returns those whose lease was lost, which are not touched again."""
    lost = set()
    for r in sorted(runs):
        try:
            action(r)
        except LeaseLost:
            members[r].emit(events.Lost(run=members[r].folder.id))
            lost.add(r)
    return lost


def _blame(members: Sequence[Member], error: MethodError) -> None:
    """Fail the runs that a method's mistake concerns. The others have not taken the step whole: the error is
    raised for them, and they go on from their checkpoints."""
    runs = range(len(members)) if error.runs is None else error.runs
    reason, detail = str(error), traceback.format_exc()

    def fail(r: int) -> None:
        if members[r].folder.status() not in ("done", "failed"):
            members[r].fail(reason, detail)

    _each(members, runs, fail)
    if len(runs) < len(members):
        raise error


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
