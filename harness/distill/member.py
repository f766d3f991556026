"""A run of a pack, in its folder: from the lease on it to its last file."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from harness.config import SPEC_VERSION, Execution, UserError
from harness.distill import events
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec
from harness.records.lease import Lease
from harness.records.tracking import Tracker

Emit = Callable[[events.Told], None]


class Member:
    """A run that this process holds; its methods stand in the order in which they happen to it.

    What a folder gets at one step is written as metrics, views, checkpoint, state; the result last. A
    resumed run drops what lies past its checkpoint and writes the same again, so a kill at any moment leaves
    no trace. All that writes raises LeaseLost once somebody else holds the run.
    """

    tracker: Tracker

    def __init__(self, folder: RunFolder, lease: Lease, spec: RunSpec, execution: Execution, emit: Emit):
        self.folder, self.lease, self.spec, self.execution, self.emit = folder, lease, spec, execution, emit
        self.total, self.view_steps = spec.config.steps, set(spec.config.views.steps(spec.config.steps))
        self.started, self.started_at = time.monotonic(), 0  # when this process took it, at which step
        self.step = 0  # the step that is taken, or was taken last
        self.checkpoint_at = 0  # steps done at the last checkpoint

    @classmethod
    def acquire(cls, folder: RunFolder, execution: Execution, emit: Emit) -> Member | None:
        """The run with a lease on it; None where it is done, failed, damaged or held by somebody else."""
        look = folder.look()
        if look.status == "damaged":
            return None  # left as it is, like one that somebody else holds
        spec = look.spec or folder.spec()
        lease = folder.acquire("distill")
        return None if lease is None else cls(folder, lease, spec, execution, emit)

    def check(self, other: Member) -> None:
        """UserError where it cannot be in one pack with another, or not be continued."""
        mine, others = ((spec.method, spec.alike, spec.config) for spec in (self.spec, other.spec))
        if mine != others:
            raise UserError(f"{self.folder.id} and {other.folder.id} cannot be in one pack")
        if self.spec.spec_version != SPEC_VERSION:
            raise UserError(
                f"{self.folder.id} was begun with random streams of version "
                f"{self.spec.spec_version}, these are of version {SPEC_VERSION}: it cannot be "
                "continued; the same sweep begins the run anew under another id"
            )

    def begin(self, at: int, environment: dict[str, Any]) -> None:
        """From step `at` on, which its checkpoint holds, or from the start."""
        before = ((self.folder.env() or {}).get("code") or {}) if at else {}
        code = {
            name: now if before.get(name, now).endswith(now) else f"{before[name]}+{now}"
            for name, now in environment["code"].items()
        }
        environment = environment | {"code": before | code}
        self.step = self.started_at = self.checkpoint_at = at
        self.folder.truncate_metrics(at)
        self.folder.save_env(environment)
        self.tracker = Tracker(
            self.folder,
            self.spec,
            self.execution.wandb,
            study=self.execution.study,
            sweep=self.execution.sweep,
        )
        self.emit(events.Started(run=self.folder.id, step=at, total=self.total))

    @property
    def is_last(self) -> bool:
        """Whether all its steps are taken."""
        return self.step >= self.total

    @property
    def has_views(self) -> bool:
        """Whether views are stored after this step."""
        return self.step in self.view_steps

    @property
    def logs(self) -> bool:
        """Whether this step is logged."""
        return self.step == 1 or self.step % self.execution.log_every == 0 or self.has_views or self.is_last

    @property
    def needs_checkpoint(self) -> bool:
        """Whether a checkpoint is due; the last one is the result's."""
        return not self.is_last and self.step - self.checkpoint_at >= self.execution.checkpoint_every

    def log(self, scalars: dict[str, float | int]) -> None:
        """A row of metrics.jsonl."""
        self.tracker.log(self.step, scalars)

    def save_views(self, images_VHWC: np.ndarray, params: dict[str, Tensor]) -> None:
        """Its views, and its parameters where they are kept."""
        self.folder.save_views(self.step, images_VHWC)
        if self.execution.keep_params:
            self.folder.save_params(self.step, params)

    def save_checkpoint(self, tensors: dict[str, Tensor]) -> None:
        """What it goes on from."""
        self.folder.save_checkpoint(tensors, self.step)
        self.checkpoint_at = self.step
        self.tracker.settle(self.step)

    def save_state(self, peak_memory_mb: float) -> None:
        """Where it stands, for those who look."""
        self.folder.save_state(
            step=self.step,
            total=self.total,
            rate=(self.step - self.started_at) / max(time.monotonic() - self.started, 1e-9),
            time=round(self.tracker.seconds(), 3),
            peak_memory_mb=peak_memory_mb,
        )

    def finish(self, params: dict[str, Tensor], result: dict[str, Any]) -> None:
        """Done; the last checkpoint has parameters alone."""
        self.folder.save_checkpoint(params, self.total)
        told = {"steps": self.total, "views": self.folder.view_steps(), **result}
        self.folder.finish(told | {"time": round(self.tracker.seconds(), 3)})
        self.folder.log("done")
        self.emit(events.Finished(run=self.folder.id))

    def fail(self, reason: str, detail: str = "", step: int | None = None) -> None:
        """Failed, at this step or at an earlier one."""
        at = self.step if step is None else step
        self.folder.fail(reason, at, detail)
        self.emit(events.Failed(run=self.folder.id, step=at, reason=reason))

    def leave(self) -> None:
        """Give it free; more than once is once."""
        if hasattr(self, "tracker"):
            self.tracker.finish()
        self.lease.release()
