"""The run folder: what was asked, what happened, where to resume. Its files are the only truth about a run.

spec.json env.json state.json metrics.jsonl views/ checkpoint.safetensors result.json|failure.json log.txt
lease.json (while somebody advances it) · deaths.json (attempts that ended without a word) · cancelled.json
wandb.json (the note of records.wandb_sync)
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.config import UserError
from harness.records import reader
from harness.records.files import (
    aside,
    disk_errors,
    is_aside,
    make_folder,
    open_to_append,
    strip,
    sync,
    tiles,
    write_bytes,
    write_json,
)
from harness.records.identity import RunSpec, run_id
from harness.records.lease import Lease, holder, locked
from harness.records.reader import RecordError
from harness.records.schema import (
    CANCELLED,
    CHECKPOINT,
    DEATHS,
    ENV,
    EVAL,
    FAILURE,
    FILES,
    FOLDERS,
    FORMS,
    LEASE,
    LOCK,
    LOG,
    MESH,
    METRICS,
    METRICS_BYTES,
    NOTE,
    PARAMS,
    PICTURE_BYTES,
    RECORD_BYTES,
    RESULT,
    SPEC,
    STATE,
    TURNTABLE,
    VIEWS,
    read_spec,
)
from harness.records.stamp import changed, prior_hash, same_prior

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

STATE_SECONDS = 2.0
DEATHS_ALLOWED = 3  # attempts in a row that ended without a word and without a new checkpoint
LOG_TAIL = 2**18  # bytes
ID = re.compile(r".+-s\d+-[0-9a-f]{8}")
PROOF = {RESULT, FAILURE, CHECKPOINT, METRICS, STATE, ENV, VIEWS, PARAMS, DEATHS, CANCELLED, NOTE}
_STEP = re.compile(r"step_(\d{6,9})\.[a-z]+")

Status = Literal["new", "resume", "running", "done", "failed", "cancelled", "damaged"]


@dataclass(frozen=True)
class Look:
    """What a glance at a run folder shows: where the run stands, what lies there, and what is amiss."""

    status: Status
    names: frozenset[str]
    damage: str | None = None
    spec: RunSpec | None = None
    code: Mapping[str, str] = field(default_factory=dict)  # which it was made with, as env.json has it


class RunFolder:
    """One run's folder. Reading is free; writing is for the holder of its lease, who is fenced off a taker.

    Without a lease (a tool that fills a folder nobody else uses) the same writes are allowed and not fenced.
    Reading a file that is not what it has to be raises RecordError; of a run whose status is not "damaged"
    all JSON can be read.
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
        """The folder of `spec` under `root`, made where it does not exist yet; it says where the prior is and
        which settings were spanned.

        It appears with its spec in it. A spec that cannot be read is written again: the folder's name says
        whose it is. Raises RecordError where anything else there is damaged.
        """
        folder = cls(Path(root) / run_id(spec))
        with disk_errors(folder.path):
            if not os.path.lexists(folder.path):
                folder._appear(spec)
        found = folder.look()
        if found.spec is None:
            if damage := folder.look(spec_known=True).damage:
                raise RecordError(f"{folder.path} is damaged: {damage}")
            write_json(folder.path / SPEC, spec.model_dump(mode="json"), durable=False)
            return folder
        moved = found.spec.config.guidance.prior != spec.config.guidance.prior  # one content
        axes = dict.fromkeys((*found.spec.axes, *spec.axes))
        if moved or len(axes) > len(found.spec.axes):
            saved: Any = folder.json(SPEC)  # as it was written
            saved["config"]["guidance"]["prior"] = spec.config.guidance.prior
            if axes:
                saved = {"axes": None} | saved | {"axes": list(axes)}  # before what many specs have in common
            write_json(folder.path / SPEC, saved, durable=False)
        return folder

    def _appear(self, spec: RunSpec) -> None:
        make_folder(self.path.parent)
        building = aside(self.path)
        building.mkdir()
        try:
            write_json(building / SPEC, spec.model_dump(mode="json"), durable=False)
            os.rename(building, self.path)
        except OSError:
            (building / SPEC).unlink(missing_ok=True)
            building.rmdir()
            if not os.path.lexists(self.path):  # else another process was first
                raise

    # ---- what is there

    def look(self, spec_known: bool = False) -> Look:
        """Where the run stands, from its files alone.

        Whoever knows the spec can write it anew (`create`): with `spec_known` a spec.json that is missing, or
        that is a file without a spec, is no damage, and the look has no spec.
        """
        entries: dict[str, os.DirEntry[str]] = {}
        spec = None
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return Look("new", frozenset())
        except OSError:
            return Look("damaged", frozenset(), self._no_folder())
        try:
            with os.scandir(descriptor) as found:
                entries = {entry.name: entry for entry in found}
            _check_kinds(entries)
            values = {}
            for name in FORMS:
                if name not in entries:
                    continue
                with suppress(FileNotFoundError):  # gone meanwhile, as a lease that was given back
                    data = _bytes_at(descriptor, name)
                    if name != SPEC:
                        values[name] = reader.plain(name, data, FORMS[name])
                        continue
                    with suppress(*[RecordError] if spec_known else []):
                        spec = read_spec(data)
            if SPEC not in entries and not spec_known and PROOF & entries.keys():
                raise RecordError(f"{SPEC}: is missing")
            code = values.get(ENV, {}).get("code", {})
            return Look(self._standing(values, CHECKPOINT in entries), frozenset(entries), None, spec, code)
        except RecordError as error:
            return Look("damaged", frozenset(entries), str(error), spec or self._spec_if_any())
        except OSError as error:
            return Look("damaged", frozenset(entries), f"cannot be read ({error.strerror})", spec)
        finally:
            os.close(descriptor)

    def _standing(self, values: Mapping[str, Any], begun: bool) -> Status:
        if RESULT in values:
            return "done"
        if FAILURE in values:
            return "failed"
        if CANCELLED in values:
            return "cancelled"
        if LEASE in values and holder(self.path):
            return "running"
        if (LEASE in values or DEATHS in values) and len(self.deaths()) >= DEATHS_ALLOWED:
            return "failed"
        return "resume" if begun else "new"

    def _no_folder(self) -> str:
        try:
            return f"is {reader.kind(os.lstat(self.path).st_mode)}, not a folder"
        except OSError as error:
            return f"cannot be read ({error.strerror})"

    def _spec_if_any(self) -> RunSpec | None:
        try:
            return self.spec()
        except (UserError, OSError):
            return None

    def status(self) -> Status:
        """Where the run stands, from its files alone."""
        return self.look().status

    def damage(self) -> str | None:
        """What keeps the run from being used, such as "state.json: step: …"; None for a run in order."""
        return self.look().damage

    def trace(self) -> tuple[Any, ...]:
        """Another value once anything in the folder has changed, or once its holder has died."""
        try:
            with os.scandir(self.path) as entries:
                found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
        except OSError as error:
            return (error.errno,)
        told = sorted((name, about.st_mtime_ns, about.st_size) for name, about in found if name != LOCK)
        return (*told, LEASE in {name for name, _ in found} and holder(self.path) is not None)

    # ---- reading

    @contextmanager
    def _damage_told(self, name: str) -> Iterator[None]:
        try:
            yield
        except RecordError as error:
            raise RecordError(f"{self.id} is damaged: {error}") from None
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            raise RecordError(f"{self.id} is damaged: {name}: cannot be read ({error.strerror})") from None

    def _record(self, name: str) -> Any | None:
        with self._damage_told(name):
            return reader.read_record(self.path, name, FORMS[name], RECORD_BYTES)

    def spec(self) -> RunSpec:
        """What was asked; raises UserError where this is no run folder of this version."""
        try:
            with self._damage_told(SPEC):
                return read_spec(reader.read_bytes(self.path, SPEC, RECORD_BYTES))
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{self.path} is no run folder: it has no readable {SPEC}") from None

    def deaths(self) -> list[dict[str, Any]]:
        """The attempts at this run that ended without a word (killed, out of memory, a lost node) since its
        last checkpoint, as {step, host, pid, taken, job, node, …}; a lease that lies there is one more.

        Only of a run that nobody holds. A new checkpoint is progress, and starts the count anew.
        """
        told = self._record(DEATHS) or []
        lease = self._record(LEASE)
        told += [lease] if lease else []
        step = self.checkpoint_step() if told else 0
        return [death for death in told if death.get("step", 0) == step]

    def checkpoint_step(self) -> int:
        """The step that the checkpoint belongs to; 0 where there is none, or none that can be read."""
        try:
            said = reader.tensors_header(self.path, CHECKPOINT).get("__metadata__")
        except (RecordError, OSError):
            return 0
        step = str(said.get("step")) if isinstance(said, dict) else ""
        return int(step) if re.fullmatch(r"\d{1,9}", step) else 0

    def state(self) -> dict[str, Any]:
        """Progress: {step, total, rate [steps/s], time [s spent]}; {} before the first step."""
        return self._record(STATE) or {}

    def result(self) -> dict[str, Any] | None:
        """What `finish` wrote, or None."""
        return self._record(RESULT)

    def failure(self) -> dict[str, Any] | None:
        """What `fail` wrote, {reason, step, detail}, or what its deaths say; None where it has not failed."""
        written = self._record(FAILURE)
        if written is not None or self.status() != "failed":
            return written
        deaths = self.deaths()
        if not deaths:  # taken, or forgotten, since it was looked at
            return None
        last = deaths[-1]
        places = [("on", last.get("node") or last.get("host")), ("in job", last.get("job"))]
        where = " ".join(f"{word} {place}" for word, place in places if place)
        reason = f"ended {len(deaths)} times without a word and without a checkpoint in between, last {where}"
        if last.get("why"):
            reason += f": {last['why']}"
        return {"reason": reason, "step": last.get("step", 0), "detail": ""}

    def env(self) -> dict[str, Any] | None:
        """Where the run was made (see records.environment), or None."""
        return self._record(ENV)

    def uploaded(self) -> dict[str, Any] | None:
        """The note of `harness sync`, or None."""
        return self._record(NOTE)

    def prior(self) -> dict[str, Any]:
        """The prior that the run was made with, as env.json tells it; {} where it does not."""
        return (self.env() or {}).get("prior") or {}

    def check_prior(self, now: Mapping[str, Any]) -> None:
        """UserError where the run was begun with another prior than `now`, as env.json tells it."""
        begun = self.prior()
        if not same_prior(begun, now):
            raise changed(self.path, str(now.get("tag")), prior_hash(begun), prior_hash(now))

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl in order; lines that are none, as a crash leaves them, are left out."""
        return self.metrics_and_losses()[0]

    def metrics_and_losses(self) -> tuple[list[dict[str, Any]], int]:
        """The rows, and how many whole lines are none."""
        data = self.metrics_bytes()
        lines = data.split(b"\n")[:-1]  # what follows the last newline is no whole row
        parse = json.loads if reader.has_plain_values(data) else reader.parse_json
        rows = [row for line in lines if (row := _row(line, parse)) is not None]
        return rows, len(lines) - len(rows)

    def metrics_bytes(self) -> bytes:
        """metrics.jsonl as it is; empty where there is none."""
        try:
            with self._damage_told(METRICS):
                return reader.read_bytes(self.path, METRICS, METRICS_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return b""

    @property
    def metrics_path(self) -> Path:
        """Where the rows are."""
        return self.path / METRICS

    def log_lines(self, most: int) -> list[str]:
        """The last lines of log.txt; none where there is no such file."""
        try:
            text = reader.tail(self.path, LOG, LOG_TAIL).decode(errors="replace")
        except (OSError, RecordError):
            return []
        return text.splitlines()[-most:]

    def _steps(self, folder: str) -> list[int]:
        found = (_STEP.fullmatch(name) for name in reader.names(self.path, folder))
        return sorted({int(match[1]) for match in found if match})

    def view_steps(self) -> list[int]:
        """The steps at which evaluation views are stored, in order."""
        return self._steps(VIEWS)

    def views_path(self, step: int) -> Path:
        """Where the views of `step` are, a strip of square tiles."""
        return self.path / VIEWS / f"step_{step:06d}.png"

    def view_bytes(self, step: int) -> bytes:
        """The picture of `views_path`; raises RecordError, and FileNotFoundError where there is none."""
        return self.picture(f"{VIEWS}/{self.views_path(step).name}")

    def views(self, step: int) -> np.ndarray:
        """The stored evaluation views, uint8 [V, H, W, 3]; V as in the spec's `config.views`.

        Raises ValueError for what is no picture, else as `view_bytes`.
        """
        return tiles(self.view_bytes(step))

    def picture(self, name: str) -> bytes:
        """A picture, film or mesh of the folder by its name there; raises as `view_bytes`."""
        return reader.read_bytes(self.path, name, PICTURE_BYTES)

    def has(self, name: str) -> bool:
        """Whether there is a regular file of that name, which no link leads to."""
        return reader.is_file(self.path, name)

    def made_after_result(self, name: str) -> bool:
        """Whether a file is there, and no older than the run's end."""
        if not self.has(name) or not self.has(RESULT):
            return False
        return os.lstat(self.path / name).st_mtime >= os.lstat(self.path / RESULT).st_mtime

    def json(self, name: str) -> Any | None:
        """The JSON of a file that a tool keeps in the folder; None where there is none that can be read."""
        try:
            return reader.parse_json(reader.read_bytes(self.path, name, RECORD_BYTES))
        except (RecordError, OSError):
            return None

    @property
    def eval(self) -> Path:
        """Where evaluation keeps what is slow to compute of the run."""
        return self.path / EVAL

    @property
    def turntable(self) -> Path:
        """Where `harness turntable` keeps its films of the finished run, such as colour.webp."""
        return self.path / TURNTABLE

    @property
    def mesh(self) -> Path:
        """Where `harness export` keeps the finished run's object, such as object.glb."""
        return self.path / MESH

    def params_path(self, step: int) -> Path:
        """Where the parameters of `step` are, if they were kept."""
        return self.path / PARAMS / f"step_{step:06d}.safetensors"

    def params_steps(self) -> list[int]:
        """The steps whose parameters were kept, in order."""
        return self._steps(PARAMS)

    def load_params(self, step: int) -> dict[str, Tensor] | None:
        """The generator's parameters after `step`, kept or in the last checkpoint; None where neither is.

        Raises RecordError for a file that is not whole.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.params_path(step)
        if os.path.lexists(path):
            try:
                reader.must_be_file(self.path, str(path.relative_to(self.path)))
                return load_file(path)
            except (SafetensorError, OSError, ValueError, RecordError) as error:
                raise RecordError(f"{path} cannot be read ({error})") from error
        checkpoint = self.load_checkpoint()
        if checkpoint is None or checkpoint[1] != step:
            return None
        named = {name: value for name, value in checkpoint[0].items() if name.startswith("params.")}
        return {name.removeprefix("params."): value for name, value in named.items()}

    def leftovers(self) -> list[Path]:
        """Files of a write that never ended: regular ones whose whole name is `files.aside`'s."""
        return [
            self.path / folder / name
            for folder in ("", *FOLDERS)
            for name in reader.names(self.path, folder)
            if is_aside(name) and self.has(str(Path(folder, name)))
        ]

    # ---- the lease

    def acquire(self, owner: str) -> Lease | None:
        """Take the run for writing; None where it is over, cancelled, damaged, or a live process has it."""
        if self.status() == "damaged":  # not even its lock is touched
            return None
        with locked(self.path) as now:
            if self.status() not in ("new", "resume", "running") or holder(self.path, now):
                return None
            for left_over in self.leftovers():
                if left_over.parent == self.path and not left_over.name.startswith(f".{SPEC}."):
                    left_over.unlink(missing_ok=True)
            if (self.path / LEASE).exists():
                self._bury()
                if len(self.deaths()) >= DEATHS_ALLOWED:
                    return None
            self._lease = Lease.take(self.path, owner, self.checkpoint_step())
        return self._lease

    @contextmanager
    def _locked_if(self, *standing: str) -> Iterator[bool]:
        """Hold the run's lock where it stands so; yields whether it does. Others are not touched."""
        if self.status() not in standing:
            yield False
            return
        with locked(self.path):
            yield self.status() in standing

    def record_death(self, **told: Any) -> None:
        """Count an attempt that ended without a word; `told` is what is known of it beside its lease."""
        with self._locked_if("new", "resume") as still:
            if still:
                self._bury(**told)

    def _bury(self, **told: Any) -> None:
        lease = self._record(LEASE) or {"step": self.checkpoint_step(), "taken": time.time()}
        before = self._record(DEATHS) or []
        write_json(self.path / DEATHS, [*before, {**lease, **told}], durable=False)
        (self.path / LEASE).unlink(missing_ok=True)

    def forget_failure(self) -> bool:
        """Make a failed run resumable again, from its last checkpoint; False where it was not failed."""
        with self._locked_if("failed") as still:
            for name in (FAILURE, DEATHS) if still else ():
                path = self.path / name
                if path.exists():
                    with disk_errors(path):
                        os.replace(path, path.with_suffix(".previous.json"))
            if still and not holder(self.path):
                (self.path / LEASE).unlink(missing_ok=True)
        return still

    def cancel(self) -> bool:
        """Take the run out of whatever advances it; False where it is done, failed or cancelled already, and
        where it is damaged.

        It waits, from its last checkpoint, until its sweep is asked for again (`uncancel`).
        """
        with self._locked_if("new", "resume", "running") as still:
            if still:
                write_json(self.path / CANCELLED, {"time": time.time()})
                (self.path / LEASE).unlink(missing_ok=True)  # its holder is fenced off at its next write
        return still

    def uncancel(self) -> None:
        """Take a `cancel` back."""
        if self.status() == "cancelled":
            (self.path / CANCELLED).unlink(missing_ok=True)

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
            write_json(self.path / ENV, dict(env), durable=False)

    def save_state(self, *, step: int, total: int, **fields: Any) -> None:
        """Write state.json, at most every STATE_SECONDS until the last step: it is for onlookers."""
        if step < total and time.monotonic() - self._state_written < STATE_SECONDS:
            return
        self._state_written = time.monotonic()
        fields = {"step": step, "total": total, **fields}
        with self._write():
            write_json(self.path / STATE, fields, durable=False)

    def append_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows to metrics.jsonl. A value that JSON cannot say (NaN, infinity) is written as null."""
        text = "".join(json.dumps(_finite(row), allow_nan=False) + "\n" for row in rows)
        path = self.metrics_path
        with self._write(), disk_errors(path), open_to_append(path) as file:
            file.write(text.encode())

    def truncate_metrics(self, step: int) -> None:
        """Drop what was recorded past `step`, rows and views: a resumed run writes it again."""
        rows = self.metrics()
        kept = [row for row in rows if row["step"] <= step]
        path = self.metrics_path
        with self._write():
            if path.exists():
                write_bytes(path, "".join(json.dumps(row) + "\n" for row in kept).encode())
            later = [self.views_path(i) for i in self.view_steps() if i > step]
            later += [self.params_path(i) for i in self.params_steps() if i > step]
            for each in later:
                with disk_errors(each):
                    each.unlink(missing_ok=True)

    def save_checkpoint(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Replace checkpoint.safetensors by the tensors after `step`; metrics reach the disk first."""
        from safetensors.torch import save

        data = save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            metadata={"step": str(step), "run": self.id},
        )
        with self._write():
            if self.metrics_path.exists():
                sync(self.metrics_path)
            write_bytes(self.path / CHECKPOINT, data)

    def load_checkpoint(self) -> tuple[dict[str, Tensor], int] | None:
        """The tensors and the step they belong to, or None where there is no checkpoint.

        Raises RecordError for a file that is not whole or belongs to another run.
        """
        from safetensors import SafetensorError, safe_open

        path = self.path / CHECKPOINT
        if not os.path.lexists(path):
            return None
        try:
            reader.must_be_file(self.path, CHECKPOINT)
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, OSError, ValueError, RecordError) as error:
            raise RecordError(f"{CHECKPOINT} cannot be read ({error}); delete it to start anew") from error
        if metadata.get("run") != self.id or not re.fullmatch(r"\d{1,9}", metadata.get("step", "")):
            owner = reader.shown(metadata.get("run", "")) or "no run of this harness"
            raise RecordError(f"{CHECKPOINT} belongs to {owner}")
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
            for path in [*map(self.views_path, self.view_steps()), self.metrics_path, self.path]:
                if path.exists():
                    sync(path)
            write_json(self.path / RESULT, dict(result))

    def fail(self, reason: str, step: int, detail: str = "") -> None:
        """Mark the run failed, with the step it happened at; it is retried only when asked."""
        with self._write():
            failure = {"reason": reason, "step": step, "detail": detail, "time": time.time()}
            write_json(self.path / FAILURE, failure)

    def log(self, line: str) -> None:
        """Append a line with the time to log.txt."""
        path = self.path / LOG
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        with disk_errors(path), open_to_append(path) as file:
            file.write(f"{stamp}  {line}\n".encode())


def _check_kinds(entries: Mapping[str, os.DirEntry[str]]) -> None:
    """Raises RecordError for the first entry of a known name that is something else."""
    for wanted, names in (("a file", FILES), ("a folder", FOLDERS)):
        for name in names:
            entry = entries.get(name)
            if entry is None:
                continue
            if not (entry.is_file if wanted == "a file" else entry.is_dir)(follow_symlinks=False):
                raise RecordError(
                    f"{name}: is {reader.kind(entry.stat(follow_symlinks=False).st_mode)}, not {wanted}"
                )
            if name == METRICS and entry.stat(follow_symlinks=False).st_size > METRICS_BYTES:
                raise RecordError(f"{name}: is larger than {METRICS_BYTES // 2**20} MiB")


def _bytes_at(descriptor: int, name: str) -> bytes:
    """A JSON file of the folder that is open as `descriptor`."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    file = os.open(name, flags, dir_fd=descriptor)
    try:
        return reader.read_descriptor(file, name, RECORD_BYTES)
    finally:
        os.close(file)


def _row(line: bytes, parse: Callable[[bytes], Any]) -> dict[str, Any] | None:
    """A line of metrics.jsonl: a step, a time where it has one, no lists; None for any other."""
    try:
        row = parse(line)
    except (ValueError, RecursionError, RecordError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int or not 0 <= row["step"] <= 10**9:
        return None
    clock = row.get("time", 0.0)
    if clock is not None and (isinstance(clock, bool) or not isinstance(clock, int | float) or clock < 0):
        return None
    return None if any(isinstance(value, dict | list) for value in row.values()) else row


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def run_folders(root: Path | str) -> list[RunFolder]:
    """Every run folder right under `root`, by name; raises UserError where `root` is no folder.

    A folder that is named as a run and holds anything of one is here too without a spec, and so is a file or
    a link of such a name: they are damaged.
    """
    root = Path(root)
    try:
        with os.scandir(root) as entries:
            found = sorted(entry.name for entry in entries if _is_run(entry))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"no folder {root}: name the folder that `harness sweep --out` wrote") from None
    except OSError as error:
        raise UserError(f"{root} cannot be read: {error.strerror}") from None
    return [RunFolder(root / name) for name in found]


def _is_run(entry: os.DirEntry[str]) -> bool:
    if is_aside(entry.name):
        return False
    if not entry.is_dir(follow_symlinks=False):
        return ID.fullmatch(entry.name) is not None
    if os.path.lexists(os.path.join(entry.path, SPEC)):
        return True
    return ID.fullmatch(entry.name) is not None and any(
        os.path.lexists(os.path.join(entry.path, name)) for name in PROOF
    )
