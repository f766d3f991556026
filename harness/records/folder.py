"""The run folder: what was asked, what happened, where to resume. Its files are the only truth about a run.

spec.json env.json state.json metrics.jsonl views/ checkpoint.safetensors result.json|failure.json log.txt
lease.json (while somebody advances it) · deaths.json (attempts that ended without a word) · cancelled.json
wandb.json (the note of records.wandb_sync)
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from harness.config import UserError, first_problem
from harness.records.files import (
    disk_errors,
    make_folder,
    read_json,
    strip,
    sync,
    tiles,
    write_bytes,
    write_json,
)
from harness.records.identity import RunSpec, run_id
from harness.records.lease import Lease, holder, locked
from harness.records.stamp import changed, prior_hash, same_prior

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

STATE_SECONDS = 2.0
DEATHS_ALLOWED = 3  # attempts in a row that ended without a word and without a new checkpoint

Status = Literal["new", "resume", "running", "done", "failed", "cancelled"]


class RecordError(Exception):
    """A run folder holds something that cannot be used; the run fails with this as its reason."""


class RunFolder:
    """One run's folder. Reading is free; writing is for the holder of its lease, who is fenced off a taker.

    Without a lease (a tool that fills a folder nobody else uses) the same writes are allowed and not fenced.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.id = self.path.name
        self._lease: Lease | None = None
        self._state_written = float("-inf")

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @classmethod
    def create(cls, root: Path | str, spec: RunSpec) -> RunFolder:
        """The folder of `spec` under `root`, made where it does not exist yet; it says where the prior is."""
        folder = cls(Path(root) / run_id(spec))
        make_folder(folder.path)
        saved = read_json(folder.path / "spec.json")
        if saved is None:
            write_json(folder.path / "spec.json", spec.model_dump(mode="json"), durable=False)
        elif saved["config"]["guidance"]["prior"] != spec.config.guidance.prior:  # one content, moved
            saved["config"]["guidance"]["prior"] = spec.config.guidance.prior
            write_json(folder.path / "spec.json", saved, durable=False)
        return folder

    # ---- reading

    def spec(self) -> RunSpec:
        """What was asked; raises UserError where this is no run folder of this version."""
        data = read_json(self.path / "spec.json")
        if data is None:
            raise UserError(f"{self.path} is no run folder: it has no readable spec.json")
        try:
            return RunSpec.model_validate(data)
        except ValidationError as error:
            raise UserError(f"{self.path / 'spec.json'}: {first_problem(error)}") from None

    def names(self) -> set[str]:
        """What lies in the folder; nothing where there is no folder."""
        try:
            return set(os.listdir(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def status(self, names: set[str] | None = None) -> Status:
        """Where the run stands, from its files alone; `names` is what `names()` gave just now."""
        names = self.names() if names is None else names
        if "result.json" in names:
            return "done"
        if "failure.json" in names:
            return "failed"
        if "cancelled.json" in names:
            return "cancelled"
        if "lease.json" in names and holder(self.path):
            return "running"
        if {"lease.json", "deaths.json"} & names and len(self.deaths()) >= DEATHS_ALLOWED:
            return "failed"
        return "resume" if "checkpoint.safetensors" in names else "new"

    def deaths(self) -> list[dict[str, Any]]:
        """The attempts at this run that ended without a word (killed, out of memory, a lost node) since its
        last checkpoint, as {step, host, pid, taken, job, node, …}; a lease that lies there is one more.

        Only of a run that nobody holds. A new checkpoint is progress, and starts the count anew.
        """
        told = read_json(self.path / "deaths.json") or []
        lease = read_json(self.path / "lease.json")
        told += [lease] if lease else []
        step = self.checkpoint_step() if told else 0
        return [death for death in told if death.get("step", 0) == step]

    def checkpoint_step(self) -> int:
        """The step that the checkpoint belongs to; 0 where there is none, or none that can be read."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path / "checkpoint.safetensors", framework="numpy") as file:
                return int((file.metadata() or {}).get("step", 0))
        except (SafetensorError, OSError, ValueError):
            return 0

    def state(self) -> dict[str, Any]:
        """Progress: {step, total, rate [steps/s], time [s spent]}; {} before the first step."""
        return read_json(self.path / "state.json") or {}

    def result(self) -> dict[str, Any] | None:
        """What `finish` wrote, or None."""
        return read_json(self.path / "result.json")

    def failure(self) -> dict[str, Any] | None:
        """What `fail` wrote, {reason, step, detail}, or what its deaths say; None where it has not failed."""
        written = read_json(self.path / "failure.json")
        if written is not None or self.status() != "failed":
            return written
        deaths = self.deaths()
        last = deaths[-1]
        places = [("on", last.get("node") or last.get("host")), ("in job", last.get("job"))]
        where = " ".join(f"{word} {place}" for word, place in places if place)
        reason = f"ended {len(deaths)} times without a word and without a checkpoint in between, last {where}"
        if "why" in last:
            reason += f": {last['why']}"
        return {"reason": reason, "step": last.get("step", 0), "detail": ""}

    def env(self) -> dict[str, Any] | None:
        """Where the run was made (see records.environment), or None."""
        return read_json(self.path / "env.json")

    def check_prior(self, now: Mapping[str, Any]) -> None:
        """UserError where the run was begun with another prior than `now`, as env.json tells it."""
        begun = (self.env() or {}).get("prior") or {}
        if not same_prior(begun, now):
            raise changed(self.path, str(now.get("tag")), prior_hash(begun), prior_hash(now))

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl in order; a line that a crash cut off is left out."""
        try:
            lines = (self.path / "metrics.jsonl").read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        rows = []
        for line in lines[:-1]:  # what follows the last newline is no whole row
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows

    def view_steps(self) -> list[int]:
        """The steps at which evaluation views are stored, in order."""
        return sorted(
            int(path.stem.removeprefix("step_")) for path in (self.path / "views").glob("step_*.png")
        )

    def views_path(self, step: int) -> Path:
        """Where the views of `step` are, a strip of square tiles."""
        return self.path / "views" / f"step_{step:06d}.png"

    def views(self, step: int) -> np.ndarray:
        """The stored evaluation views, uint8 [V, H, W, 3]; V as in the spec's `config.views`."""
        return tiles(self.views_path(step))

    @property
    def turntable(self) -> Path:
        """Where `harness turntable` keeps its films of the finished run, such as colour.webp."""
        return self.path / "turntable"

    @property
    def mesh(self) -> Path:
        """Where `harness export` keeps the finished run's object, such as object.glb."""
        return self.path / "mesh"

    def params_path(self, step: int) -> Path:
        """Where the parameters of `step` are, if they were kept."""
        return self.path / "params" / f"step_{step:06d}.safetensors"

    def params_steps(self) -> list[int]:
        """The steps whose parameters were kept, in order."""
        return sorted(int(p.stem.removeprefix("step_")) for p in (self.path / "params").glob("step_*"))

    def load_params(self, step: int) -> dict[str, Tensor] | None:
        """The generator's parameters after `step`, kept or in the last checkpoint; None where neither is.

        Raises RecordError for a file that is not whole.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if self.params_path(step).exists():
            try:
                return load_file(self.params_path(step))
            except (SafetensorError, OSError) as error:
                raise RecordError(f"{self.params_path(step)} cannot be read ({error})") from error
        checkpoint = self.load_checkpoint()
        if checkpoint is None or checkpoint[1] != step:
            return None
        named = {name: value for name, value in checkpoint[0].items() if name.startswith("params.")}
        return {name.removeprefix("params."): value for name, value in named.items()}

    # ---- the lease

    def acquire(self, owner: str) -> Lease | None:
        """Take the run for writing; None where it is done, failed, cancelled, or held by a live process."""
        with locked(self.path) as now:
            if self.status() in ("done", "failed", "cancelled") or holder(self.path, now):
                return None
            for left_over in self.path.glob(".*.tmp"):
                if not left_over.name.startswith(".spec.json."):
                    left_over.unlink(missing_ok=True)
            if (self.path / "lease.json").exists():
                self._bury()
                if len(self.deaths()) >= DEATHS_ALLOWED:
                    return None
            self._lease = Lease.take(self.path, owner, self.checkpoint_step())
        return self._lease

    def record_death(self, **told: Any) -> None:
        """Count an attempt that ended without a word; `told` is what is known of it beside its lease."""
        with locked(self.path):
            if self.status() in ("new", "resume"):
                self._bury(**told)

    def _bury(self, **told: Any) -> None:
        lease = read_json(self.path / "lease.json") or {"step": self.checkpoint_step(), "taken": time.time()}
        before = read_json(self.path / "deaths.json") or []
        write_json(self.path / "deaths.json", [*before, {**lease, **told}], durable=False)
        (self.path / "lease.json").unlink(missing_ok=True)

    def forget_failure(self) -> bool:
        """Make a failed run resumable again, from its last checkpoint; False where it was not failed."""
        with locked(self.path):
            if self.status() != "failed":
                return False
            for name in ("failure.json", "deaths.json"):
                if (self.path / name).exists():
                    os.replace(self.path / name, (self.path / name).with_suffix(".previous.json"))
            if not holder(self.path):
                (self.path / "lease.json").unlink(missing_ok=True)
        return True

    def cancel(self) -> bool:
        """Take the run out of whatever advances it; False where it is done, failed or cancelled already.

        It waits, from its last checkpoint, until its sweep is asked for again (`uncancel`).
        """
        with locked(self.path):
            if self.status() in ("done", "failed", "cancelled"):
                return False
            write_json(self.path / "cancelled.json", {"time": time.time()})
            (self.path / "lease.json").unlink(missing_ok=True)  # its holder is fenced off at its next write
        return True

    def uncancel(self) -> None:
        """Take a `cancel` back."""
        (self.path / "cancelled.json").unlink(missing_ok=True)

    def ours(self) -> bool:
        """Whether nobody else may write here: false once the lease was lost."""
        return self._lease is None or self._lease.held()

    @contextmanager
    def _write(self) -> Iterator[None]:
        with self._lease.fence() if self._lease else nullcontext():
            yield

    # ---- writing

    def save_env(self, env: Mapping[str, Any]) -> None:
        """Write env.json."""
        with self._write():
            write_json(self.path / "env.json", dict(env), durable=False)

    def save_state(self, *, step: int, total: int, **fields: Any) -> None:
        """Write state.json, at most every STATE_SECONDS until the last step: it is for onlookers."""
        if step < total and time.monotonic() - self._state_written < STATE_SECONDS:
            return
        self._state_written = time.monotonic()
        fields = {"step": step, "total": total, **fields}
        with self._write():
            write_json(self.path / "state.json", fields, durable=False)

    def append_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows to metrics.jsonl. A value that JSON cannot say (NaN, infinity) is written as null."""
        text = "".join(json.dumps(_finite(row), allow_nan=False) + "\n" for row in rows)
        path = self.path / "metrics.jsonl"
        with self._write(), disk_errors(path), open(path, "ab") as file:
            file.write(text.encode())

    def truncate_metrics(self, step: int) -> None:
        """Drop what was recorded past `step`, rows and views: a resumed run writes it again."""
        rows = self.metrics()
        kept = [row for row in rows if row["step"] <= step]
        path = self.path / "metrics.jsonl"
        with self._write():
            if path.exists():
                write_bytes(path, "".join(json.dumps(row) + "\n" for row in kept).encode())
            for later in self.view_steps():
                if later > step:
                    self.views_path(later).unlink()
            for later in self.params_steps():
                if later > step:
                    self.params_path(later).unlink()

    def save_checkpoint(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Replace checkpoint.safetensors by the tensors after `step`; metrics reach the disk first."""
        from safetensors.torch import save

        data = save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            metadata={"step": str(step), "run": self.id},
        )
        metrics = self.path / "metrics.jsonl"
        with self._write():
            if metrics.exists():
                sync(metrics)
            write_bytes(self.path / "checkpoint.safetensors", data)

    def load_checkpoint(self) -> tuple[dict[str, Tensor], int] | None:
        """The tensors and the step they belong to, or None where there is no checkpoint.

        Raises RecordError for a file that is not whole or belongs to another run.
        """
        from safetensors import SafetensorError, safe_open

        path = self.path / "checkpoint.safetensors"
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, OSError, ValueError) as error:
            raise RecordError(
                f"checkpoint.safetensors cannot be read ({error}); delete it to start anew"
            ) from error
        if metadata.get("run") != self.id or not metadata.get("step", "").isdigit():
            raise RecordError(
                f"checkpoint.safetensors belongs to {metadata.get('run') or 'no run of this harness'}"
            )
        return tensors, int(metadata["step"])

    def save_views(self, step: int, images_VHWC: np.ndarray) -> None:
        """Store evaluation views, uint8 [V, H, W, 3] with H = W, as one PNG strip of V tiles."""
        import numpy as np

        images = np.asarray(images_VHWC)
        _, height, width, channels = images.shape
        if images.dtype != np.uint8 or height != width or channels != 3:
            raise ValueError(f"views must be uint8 [V, H, H, 3], not {images.dtype} {images.shape}")
        with self._write():
            self.views_path(step).parent.mkdir(exist_ok=True)
            write_bytes(self.views_path(step), strip(images), durable=False)

    def save_params(self, step: int, params: Mapping[str, Tensor]) -> None:
        """Keep the generator's parameters after `step`."""
        from safetensors.torch import save

        data = save({name: value.detach().cpu().contiguous() for name, value in params.items()})
        with self._write():
            self.params_path(step).parent.mkdir(exist_ok=True)
            write_bytes(self.params_path(step), data, durable=False)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Mark the run done: result.json, the last file to be written, after all others are on disk."""
        with self._write():
            for path in [*self.path.glob("views/*.png"), self.path / "metrics.jsonl", self.path]:
                if path.exists():
                    sync(path)
            write_json(self.path / "result.json", dict(result))

    def fail(self, reason: str, step: int, detail: str = "") -> None:
        """Mark the run failed, with the step it happened at; it is retried only when asked."""
        with self._write():
            failure = {"reason": reason, "step": step, "detail": detail, "time": time.time()}
            write_json(self.path / "failure.json", failure)

    def log(self, line: str) -> None:
        """Append a line with the time to log.txt."""
        path = self.path / "log.txt"
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        with disk_errors(path), open(path, "a", encoding="utf-8") as file:
            file.write(f"{stamp}  {line}\n")


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    bad = (float("inf"), float("-inf"))
    return {k: None if isinstance(v, float) and (v != v or v in bad) else v for k, v in row.items()}


def run_folders(root: Path | str) -> list[RunFolder]:
    """Every run folder right under `root`, by name; raises UserError where `root` is no folder."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"no folder {root}: name the folder that `harness sweep --out` wrote")
    return [RunFolder(path.parent) for path in sorted(root.glob("*/spec.json"))]
