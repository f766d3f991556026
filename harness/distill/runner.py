"""Advances one pack of runs from their checkpoints to their results.

What a run folder gets at one step is written in this order: metrics, views, checkpoint, state; the result
last. A resumed run drops what lies past its checkpoint and writes the same again, so a kill at any moment
leaves no trace.
"""

import gc
import logging
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.config import SPEC_VERSION, Config, Execution, GuidanceConfig, UserError, named_line
from harness.device import be_deterministic, has_c_compiler, peak_memory_mb, pick_device
from harness.distill import contract, events
from harness.distill.contract import MethodError
from harness.distill.method import Method, NoiseSchedule, load_method
from harness.distill.optim import Adam
from harness.distill.step import Pack, StepReport, evaluation_latents, step
from harness.guidance.prior import Guidance
from harness.records.environment import snapshot
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec
from harness.records.lease import Lease, LeaseLost
from harness.records.reader import RecordError
from harness.records.tracking import Tracker
from harness.rng import Key
from harness.scene.cameras import evaluation
from harness.scene.encoders import choose_encoder
from harness.scene.kind import check_views, look_in, make_scene
from harness.threads import torch_threads

Emit = Callable[[events.Told], None]
Checkpoint = tuple[dict[str, Tensor], int]
DIVERGED = "diverged: non-finite render or gradient"


class PackTooLarge(Exception):
    """`runs` runs did not fit into memory together; they are as their last checkpoints say."""

    def __init__(self, runs: int, peak_mb: float):
        noun = "run does" if runs == 1 else "runs do"
        super().__init__(f"{runs} {noun} not fit into memory (peak {peak_mb:.0f} MB)")
        self.runs = runs


@dataclass
class Member:
    """A run of the pack: its folder, the lease on it, and where it stands."""

    folder: RunFolder
    lease: Lease
    spec: RunSpec
    tracker: Tracker | None = None
    started_at: int = 0  # steps done when this stretch began
    checkpoint_at: int = 0  # steps done at the last checkpoint


def advance(
    root: Path | str,
    run_ids: Sequence[str],
    execution: Execution,
    emit: Emit = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Advance these runs (one method, one config) until each is done, failed, or taken by somebody else.

    Runs that are done, failed or held by another process are passed over. `emit` is told of every step; where
    `should_stop` turns true, the runs are checkpointed and given free. Raises UserError, PackTooLarge where
    the runs did not fit into memory, and what a method raises; the runs are as their last checkpoints say.
    """
    look_in(execution.scenes_dirs)
    members = _acquire(Path(root), run_ids)
    try:
        if members:
            with torch_threads(execution.threads):
                _Crew(members, execution, emit).work(should_stop)
    finally:
        for member in members:
            if member.tracker:
                member.tracker.finish()
            member.lease.release()


def _acquire(root: Path, run_ids: Sequence[str]) -> list[Member]:
    members: list[Member] = []
    for run_id in run_ids:
        folder = RunFolder(root / run_id)
        look = folder.look()
        if look.status == "damaged":
            continue  # left as it is, like one that somebody else holds
        spec = look.spec or folder.spec()
        lease = folder.acquire("distill")
        if lease is not None:
            members.append(Member(folder, lease, spec))
    return members


class _Crew:
    """The members of a pack and the pack itself, kept in the same order."""

    pack: Pack

    def __init__(self, members: list[Member], execution: Execution, emit: Emit):
        self.members = list(members)
        self.execution = execution
        self.emit = emit
        if execution.deterministic:
            be_deterministic()
        self.device = torch.device(pick_device(execution.device))
        self.started = time.monotonic()

    def work(self, should_stop: Callable[[], bool]) -> None:
        """Step until nobody is left. An error that may not be every run's own is raised and fails no run."""
        size, too_large = len(self.members), False
        try:
            self.pack = self._assemble()
            self._retire([r for r in range(len(self.members)) if self._remaining(r) == 0])
            while self.members:
                if should_stop():
                    self._each(range(len(self.members)), self._checkpoint)
                    self.emit(events.Stopped(runs=tuple(self._ids())))
                    return
                try:
                    report = step(self.pack)
                except MethodError:
                    raise
                except Exception as error:
                    if len(self.members) > 1 or _out_of_memory(error):
                        raise  # which run is to blame shows in smaller packs
                    reason, detail = named_line(error), traceback.format_exc()
                    self._each([0], lambda r: self._fail(r, reason, detail))  # noqa: B023 - called at once
                    return
                self._record(report)
        except MethodError as error:
            self._blame(error)
        except (MemoryError, RuntimeError) as error:
            too_large = _out_of_memory(error)
            if not too_large:
                raise
        finally:
            self.__dict__.pop("pack", None)  # the next, smaller pack needs the memory
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        if too_large:  # raised here, where no traceback holds on to the pack's tensors
            raise PackTooLarge(size, peak_memory_mb(self.device))

    def _blame(self, error: MethodError) -> None:
        """Fail the runs that a method's mistake concerns. The others have not taken the step whole: the error
        is raised for them, and they go on from their checkpoints."""
        members = range(len(self.members))
        runs = list(members if error.runs is None else error.runs)
        reason, detail = str(error), traceback.format_exc()

        def fail(r: int) -> None:
            if self.members[r].folder.status() not in ("done", "failed"):
                self._fail(r, reason, detail, None if "pack" in vars(self) else self.members[r].started_at)

        self._each(runs, fail)
        if len(runs) < len(members):
            raise error

    # ---- the beginning

    def _assemble(self) -> Pack:
        """The pack of all members, from their checkpoints or from their keys."""
        first = self.members[0].spec
        for member in self.members:
            alike = (member.spec.method, member.spec.params, member.spec.config)
            if alike != (first.method, first.params, first.config):
                raise UserError(f"{member.folder.id} and {self.members[0].folder.id} cannot be in one pack")
            if member.spec.spec_version != SPEC_VERSION:
                raise UserError(
                    f"{member.folder.id} was begun with random streams of version "
                    f"{member.spec.spec_version}, these are of version {SPEC_VERSION}: it cannot be "
                    "continued; the same sweep begins the run anew under another id"
                )
        config = first.config
        guidance = load_guidance(config, self.device)
        check_resolution(config, guidance)
        checkpoints = self._load_checkpoints()
        for member, checkpoint in zip(self.members, checkpoints, strict=True):
            if checkpoint:
                member.folder.check_prior(guidance.record)
        for member, checkpoint in zip(self.members, checkpoints, strict=True):
            member.started_at = member.checkpoint_at = checkpoint[1] if checkpoint else 0
            member.folder.truncate_metrics(member.started_at)
            member.folder.save_env(self._environment(guidance))
            member.tracker = Tracker(
                member.folder,
                member.spec,
                self.execution.wandb,
                study=self.execution.study,
                sweep=self.execution.sweep,
            )
            self.emit(events.Started(run=member.folder.id, step=member.started_at, total=config.steps))

        keys = [Key(member.spec.prompt, member.spec.seed) for member in self.members]
        background_C = guidance.flat_code(config.scene.background_rgb)
        scene = make_scene(config.scene, guidance.latent_shape[0], str(self.device), self.execution.encoder)
        fresh = scene.init(keys, background_C.cpu().expand(len(keys), -1))
        params = {name: value.to(self.device) for name, value in fresh.items()}
        adam = Adam(config.optim, params, rates=scene.learning_rates())
        method = make_method(first, guidance, self.execution)
        with contract.blamed():
            begun = method.initial_state(list(keys), guidance.shapes)
        state_layout = contract.layout(begun, len(keys))
        state = {name: value.to(self.device, copy=True) for name, value in begun.items()}
        known = {name: value.to(self.device) for name, value in scene.state(len(keys)).items()}
        moments = {"adam.first": adam.first, "adam.second": adam.second}
        # A checkpoint that counts no evaluations made the usual two a step.
        cost = {"nfe": torch.tensor([2 * member.started_at for member in self.members])}
        groups = {"params": params, **moments, "method": state, "scene": known, "cost": cost}
        for r, checkpoint in enumerate(checkpoints):
            if checkpoint:
                _restore(groups, r, checkpoint[0])
        with contract.blamed():
            method.load_state(state)
        pack = Pack(
            config=config,
            method=method,
            guidance=guidance,
            scene=scene,
            background_C=background_C,
            keys=keys,
            step_R=torch.tensor([member.started_at for member in self.members]),
            total_R=torch.full((len(keys),), config.steps),
            params=params,
            adam=adam,
            scene_state=known,
            state_layout=state_layout,
        )
        pack.nfe_R = cost["nfe"]
        pack.method_state()  # what a checkpoint would lack shows at once
        return pack

    def _load_checkpoints(self) -> list[Checkpoint | None]:
        """The members' checkpoints; a member whose checkpoint is unusable fails and leaves."""
        usable: list[tuple[Member, Checkpoint | None]] = []
        for member in self.members:
            try:
                usable.append((member, member.folder.load_checkpoint()))
            except RecordError as error:
                member.folder.fail(str(error), 0)
                self.emit(events.Failed(run=member.folder.id, reason=str(error)))
        self.members = [member for member, _ in usable]
        return [checkpoint for _, checkpoint in usable]

    def _environment(self, guidance: Guidance) -> dict[str, Any]:
        encoder = choose_encoder(str(self.device), self.execution.encoder)
        return snapshot(
            str(self.device), prior=guidance.record, encoder=encoder, compiled=guidance.is_compiled
        )

    # ---- after each step

    def _record(self, report: StepReport) -> None:
        """Write what is due after a step, and let runs go that diverged or are done."""
        ids = self._ids()
        due: dict[str, list[int]] = {"log": [], "views": [], "checkpoint": [], "done": []}
        view_steps = set(self.pack.config.views.steps(self.pack.config.steps))
        for r in range(len(self.members)):
            i = self._step(r)
            last = self._remaining(r) == 0
            if i == 1 or i % self.execution.log_every == 0 or i in view_steps or last:
                due["log"].append(r)
            if i in view_steps:
                due["views"].append(r)
            if last:
                due["done"].append(r)
            elif i - self.members[r].checkpoint_at >= self.execution.checkpoint_every:
                due["checkpoint"].append(r)

        gone: set[int] = set()
        # To look at a GPU's numbers is to wait for it: only before something of them is written.
        if self.device.type == "cpu" or any(due.values()):
            for r, at in enumerate(report.diverged_R.tolist()):
                if at:
                    self._each([r], lambda r: self._fail(r, DIVERGED, step=at))  # noqa: B023 - called at once
                    gone.add(r)
        gone |= self._each([r for r in due["log"] if r not in gone], lambda r: self._log(r, report))
        gone |= self._save_views([r for r in due["views"] if r not in gone])
        gone |= self._fail_unlearned([r for r in due["checkpoint"] if r not in gone])
        gone |= self._each([r for r in due["checkpoint"] if r not in gone], self._checkpoint)
        gone |= self._each([r for r in due["log"] if r not in gone], self._save_state)
        self.emit(events.Stepped(runs=tuple(ids)))
        self._retire([r for r in due["done"] if r not in gone], gone)

    def _each(self, runs: Sequence[int], action: Callable[[int], None]) -> set[int]:
        """`action` on each run; returns those whose lease was lost meanwhile, which are not touched again."""
        lost = set()
        for r in runs:
            try:
                action(r)
            except LeaseLost:
                self.emit(events.Lost(run=self.members[r].folder.id))
                lost.add(r)
        return lost

    def _retire(self, done: Sequence[int], gone: set[int] | None = None) -> None:
        """Finish the runs that are done, and go on with the pack without them and without the `gone`."""
        gone = set(gone or ())
        self._each([r for r in done if r not in gone], self._finish)
        gone |= set(done)
        if not gone:
            return
        stay = [r for r in range(len(self.members)) if r not in gone]
        for r in gone:
            member = self.members[r]
            if member.tracker:
                member.tracker.finish()
            member.lease.release()
        self.members = [self.members[r] for r in stay]
        if stay:
            self.pack.keep(stay)

    def _log(self, r: int, report: StepReport) -> None:
        tracker = self.members[r].tracker
        assert tracker is not None
        tracker.log(self._step(r), report.scalars(r))

    def _save_views(self, runs: Sequence[int]) -> set[int]:
        if not runs:
            return set()
        latents = evaluation_latents(self.pack, evaluation(self.pack.config.views), runs)
        images = self.pack.guidance.decode(latents.flatten(0, 1)).mul(255).round().to(torch.uint8).cpu()
        images = images.permute(0, 2, 3, 1).unflatten(0, latents.shape[:2]).numpy()
        by_run = dict(zip(runs, images, strict=True))

        def save(r: int) -> None:
            folder, i = self.members[r].folder, self._step(r)
            folder.save_views(i, by_run[r])
            if self.execution.keep_params:
                folder.save_params(i, {name: value[r] for name, value in self.pack.params.items()})

        return self._each(runs, save)

    def _checkpoint(self, r: int) -> None:
        """Everything that the run needs to go on: parameters, Adam's moments, the method's state."""
        pack, i = self.pack, self._step(r)
        if i == self.members[r].checkpoint_at:
            return
        groups = {
            "params": pack.params,
            "adam.first": pack.adam.first,
            "adam.second": pack.adam.second,
            "method": pack.method_state(),
            "scene": pack.scene_state,
            "cost": {"nfe": pack.nfe_R},
        }
        member = self.members[r]
        member.folder.save_checkpoint(_row(groups, r), i)
        member.checkpoint_at = i
        if member.tracker:
            member.tracker.settle(i)

    def _fail_unlearned(self, runs: Sequence[int]) -> set[int]:
        """Fail the runs whose method has learned what is not finite, which a checkpoint would keep."""
        state = self.pack.method_state() if runs else {}
        named = {r: contract.not_finite(state, r) for r in runs}
        bad = [r for r, name in named.items() if name]
        self._each(bad, lambda r: self._fail(r, f"diverged: non-finite {named[r]} in the method's state"))
        return set(bad)

    def _save_state(self, r: int) -> None:
        member, i = self.members[r], self._step(r)
        assert member.tracker is not None
        member.folder.save_state(
            step=i,
            total=int(self.pack.total_R[r]),
            rate=(i - member.started_at) / max(time.monotonic() - self.started, 1e-9),
            time=round(member.tracker.seconds(), 3),
            peak_memory_mb=peak_memory_mb(self.device),
        )

    def _finish(self, r: int) -> None:
        """The last checkpoint has parameters alone: nothing goes on from it, but anything can be rendered."""
        member, pack = self.members[r], self.pack
        assert member.tracker is not None
        member.folder.save_checkpoint(_row({"params": pack.params}, r), pack.config.steps)
        member.folder.finish(
            {
                "steps": pack.config.steps,
                "views": member.folder.view_steps(),
                "prior": pack.guidance.record,
                "device": str(self.device),
                "time": round(member.tracker.seconds(), 3),
                "peak_memory_mb": peak_memory_mb(self.device),
            }
        )
        member.folder.log("done")
        self.emit(events.Finished(run=member.folder.id))

    def _fail(self, r: int, reason: str, detail: str = "", step: int | None = None) -> None:
        i = self._step(r) if step is None else step
        self.members[r].folder.fail(reason, i, detail)
        self.emit(events.Failed(run=self.members[r].folder.id, step=i, reason=reason))

    def _step(self, r: int) -> int:
        return int(self.pack.step_R[r])

    def _remaining(self, r: int) -> int:
        return int(self.pack.total_R[r] - self.pack.step_R[r])

    def _ids(self) -> list[str]:
        return [member.folder.id for member in self.members]


def _row(groups: dict[str, dict[str, Tensor]], r: int) -> dict[str, Tensor]:
    """Run r's part of grouped tensors, flat: "params.table", "adam.first.table", …"""
    return {f"{group}.{name}": value[r] for group, named in groups.items() for name, value in named.items()}


def _restore(groups: dict[str, dict[str, Tensor]], r: int, saved: dict[str, Tensor]) -> None:
    """Write a checkpoint's tensors into row r; the last checkpoint of a run has parameters only."""
    for group, tensors in groups.items():
        for name, value in tensors.items():
            key = f"{group}.{name}"
            if key in saved:
                value[r] = saved[key].to(value.device)


def check(spec: RunSpec, execution: Execution) -> None:
    """UserError where a run of that method and configuration cannot even be begun on this machine."""
    look_in(execution.scenes_dirs)
    guidance = load_guidance(spec.config, torch.device(pick_device(execution.device)))
    check_resolution(spec.config, guidance)
    check_views(spec.config)
    make_method(spec, guidance, execution)


def check_resolution(config: Config, guidance: Guidance) -> None:
    """UserError where the scene's resolution is not the one that the prior looks at."""
    asked, side = config.scene.resolution, guidance.latent_shape[1]
    if asked != side:
        raise UserError(
            f"scene.resolution is {asked}, and {guidance.tag} looks at {side} × {side}: "
            f"add --set scene.resolution={side}"
        )


def make_method(spec: RunSpec, guidance: Guidance, execution: Execution) -> Method:
    """The run's method with its settings, on the prior's noise schedule; UserError where they do not fit."""
    method_class = load_method(spec.method, [Path(d) for d in execution.methods_dirs])
    params = method_class.resolve(spec.params, spec.method)
    noise = NoiseSchedule(guidance.alphas_cumprod_T.clone(), *guidance.t_range)
    try:
        return method_class(params, noise, spec.config.guidance.weighting)
    except ValueError as error:
        raise UserError(f"method {spec.method}: {error}") from error


_priors: dict[tuple[GuidanceConfig, torch.device, bool], Guidance] = {}


def load_guidance(config: Config, device: torch.device) -> Guidance:
    """The prior, kept for the next pack of this process; only one is held at a time."""
    compiled = config.guidance.compiled(config.steps, str(device))
    if compiled and config.guidance.compile == "auto" and not has_c_compiler():
        logging.getLogger(__name__).warning("the denoiser is not compiled: there is no C compiler")
        compiled = False
    key = (config.guidance, device, compiled)
    if key not in _priors:
        _priors.clear()
        _priors[key] = Guidance.load(config.guidance, device)
        if compiled:
            _priors[key].compile()
    return _priors[key]


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
