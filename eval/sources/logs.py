"""What runs logged → one tidy long table, through a parquet cache. No torch."""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from eval.sources import wandb_logs
from eval.sources.logged import LoggedRun, Problems, fingerprint, user_cache
from harness.config import UserError, nearest
from harness.records import reader
from harness.records.files import write_bytes
from harness.records.folder import RunFolder, run_folders
from harness.records.reader import RecordError
from harness.threads import cores

VERSION = 1  # of the cache's layout
SHARDS = 64  # parquet files of a cache: a run that goes on makes one of them stale, not all
EMPTY = pa.table({"step": pa.array([], pa.int32()), "time": pa.array([], pa.float64())})


def load_logs(
    source: str | Path, metrics: Sequence[str] | None = None, *, cache: Path | None = None
) -> pd.DataFrame:
    """One row per run, metric and logged step: run, method, prompt, seed, step, time, metric, value, state.

    `source`: a folder of run folders; `wandb:entity/project[/group]`; an offline `.wandb` file; a folder with
    `wandb/offline-run-*/run-*.wandb` and no run folders, or that `wandb` folder itself. `time` is the run's
    wall time in seconds; a metric that a run logged at some of its steps, or as null, is NaN at the others.
    Names are categories, step and seed int32, time float32; value is float32 where that is exact for all, as
    for what the harness logs, else float64. A row has 23 bytes, 2.1 GB for 2 295 runs × 10 000 steps × 4
    metrics. `metrics` selects, and is how to load more than memory holds; the default is all. Rows come by
    run, metric, then step. `.attrs["problems"]`: a line for each run left out.

    Parsed logs are kept as parquet in `cache` (default: `eval/cache` under the folder, `dreamtime-harness`
    in the user's cache folder for W&B; a temporary folder where that cannot be written). An entry counts
    only for the very file it came from: see `fingerprint`. Specs and states are read anew each time.
    Raises UserError for a source without runs and for a metric that no run logged.
    """
    default, read = _reader(source)
    with _writable(cache or default) as folder:
        runs, problems = read(folder)
        table = _long(sorted(runs, key=lambda run: run.run), metrics, folder)
    table.attrs["problems"] = problems
    return table


def _reader(source: str | Path) -> tuple[Path, Callable[[Path], tuple[list[LoggedRun], Problems]]]:
    """Where the cache of a source is by default, and what finds its runs given the cache."""
    root = Path(source)
    if str(source).startswith("wandb:"):
        return user_cache(), lambda cache: wandb_logs.fetch(str(source), cache)
    if root.is_file():
        return user_cache(), lambda cache: wandb_logs.read_offline([root], cache)
    if root.is_dir() and run_folders(root):
        return root / "eval" / "cache", lambda _: _logged(root)
    mirrors = sorted([*root.glob("wandb/offline-run-*/run-*.wandb"), *root.glob("offline-run-*/run-*.wandb")])
    if mirrors:
        return root / "eval" / "cache", lambda cache: wandb_logs.read_offline(mirrors, cache)
    run_folders(root)  # raises where there is no folder
    raise UserError(f"no runs in {root}: it has neither run folders nor wandb/offline-run-*/run-*.wandb")


def _logged(root: Path) -> tuple[list[LoggedRun], Problems]:
    runs: list[LoggedRun] = []
    problems: Problems = []
    for folder in run_folders(root):
        look = folder.look()
        if look.damage or look.spec is None:
            problems.append(f"{folder.id}: damaged: {look.damage or 'spec.json: is missing'}")
            continue
        spec = look.spec
        runs.append(
            LoggedRun(folder.id, spec.label, spec.prompt, spec.seed, look.status, folder.metrics_path)
        )
    if not runs:
        raise UserError(f"no runs in {root} ({problems[0]})")
    return runs, problems


@contextmanager
def _writable(folder: Path) -> Iterator[Path]:
    """`folder`, made where it is missing; a temporary one where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK)
    except OSError:
        usable = False
    if usable:
        yield folder
    else:
        with TemporaryDirectory() as temporary:
            yield Path(temporary)


# ---- one log


def read_log(path: Path) -> pa.Table:
    """A metrics.jsonl as columns: step int32, time and each numeric metric float64, NaN for null and absent.

    Rows are those of `RunFolder.metrics`: a last line without its newline, and lines that are no JSON, are
    left out.
    """
    try:
        data = RunFolder(path.parent).metrics_bytes()
    except RecordError:  # replaced since it was looked at
        return EMPTY
    data = data[: data.rfind(b"\n") + 1]
    if not data or data.isspace():
        return EMPTY
    try:
        if not reader.has_plain_values(data) or max(data.count(b"["), data.count(b"{") - data.count(b"\n")):
            raise pa.ArrowInvalid("row by row")  # what Arrow would take for a row, and is none
        options = pyarrow.json.ReadOptions(use_threads=False, block_size=min(len(data) + 1, 2**30))
        raw = pyarrow.json.read_json(pa.BufferReader(data), read_options=options)
        if "step" in raw.column_names and not pa.types.is_integer(raw["step"].type):
            raise pa.ArrowInvalid("row by row")
        columns = {name: raw[name].cast(pa.float64(), safe=False).to_numpy() for name in _numeric(raw.schema)}
    except (pa.ArrowException, ValueError):  # a damaged line, or a value whose type changes
        columns = _columns(RunFolder(path.parent).metrics())
    if "step" not in columns:
        return EMPTY
    steps = columns["step"]
    columns.setdefault("time", np.full(len(steps), np.nan))
    kept = np.isfinite(steps) & (steps >= 0) & (steps < 2**31) & ~(columns["time"] < 0)
    names = ["step", "time", *sorted(columns.keys() - {"step", "time"})]
    arrays = {name: columns[name][kept] for name in names}
    return pa.table(arrays | {"step": arrays["step"].astype(np.int32)})


def _numeric(schema: pa.Schema) -> list[str]:
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
    return [field.name for field in schema if any(kind(field.type) for kind in kinds)]


def _columns(rows: Iterable[Any]) -> dict[str, np.ndarray]:
    rows = [row for row in rows if isinstance(row, dict)]
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        numbers = [float(v) if isinstance(v, int | float) else np.nan for v in values]
        if any(isinstance(v, int | float) for v in values) or all(v is None for v in values):
            columns[name] = np.array(numbers, np.float64)
    return columns


# ---- the cache: a few wide parquet files of many runs each; `runs` in their metadata: which rows are whose


@dataclass(frozen=True)
class _Entry:
    run: str
    fingerprint: list[Any] | None
    rows: int
    metrics: list[str]


def _entries(schema: pa.Schema) -> list[_Entry]:
    return [_Entry(*fields) for fields in json.loads((schema.metadata or {})[b"runs"])]


def _slices(entries: Iterable[_Entry]) -> Iterator[tuple[_Entry, int]]:
    start = 0
    for entry in entries:
        yield entry, start
        start += entry.rows


def _open(path: Path) -> pq.ParquetFile | None:
    try:
        file = pq.ParquetFile(path)
        _entries(file.schema_arrow)
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or no cache of ours: made anew
        return None
    return file


def _shard(path: Path, runs: Sequence[LoggedRun]) -> pq.ParquetFile:
    """The cache file of some runs, brought up to date. It stays open: another process may replace it."""
    now = {run.run: fingerprint(run.log) for run in runs}
    file = _open(path)
    kept = _entries(file.schema_arrow) if file else []
    valid = {entry.run for entry in kept if entry.fingerprint and entry.fingerprint == now.get(entry.run)}
    if file and valid == now.keys():
        return file
    old = file.read(use_threads=False) if file else EMPTY
    parts = [
        (entry, old.slice(start, entry.rows).select(["step", "time", *entry.metrics]))
        for entry, start in _slices(kept)
        if entry.run in valid
    ]
    for run in runs:
        if run.run not in valid:
            log = read_log(run.log)
            parts.append((_Entry(run.run, now[run.run], log.num_rows, log.column_names[2:]), log))
    table = _narrowed(pa.concat_tables([part for _, part in parts], promote_options="permissive"))
    names = [[entry.run, entry.fingerprint, entry.rows, entry.metrics] for entry, _ in parts]
    metadata = {b"runs": json.dumps(names).encode()}
    table = table.replace_schema_metadata(metadata)
    data = io.BytesIO()
    floats = table.column_names[1:]
    pq.write_table(
        table, data, compression="lz4", use_dictionary=False, use_byte_stream_split=floats,
        write_statistics=False,
    )  # fmt: skip
    write_bytes(path, data.getvalue(), durable=False)
    file = _open(path)
    return file if file and file.schema_arrow.metadata == metadata else pq.ParquetFile(data)


def _narrowed(table: pa.Table) -> pa.Table:
    """The time as float32, and so each metric that this keeps exactly, as values are that were float32."""
    for i, name in enumerate(table.column_names[1:], start=1):
        column = table[name].to_numpy()
        narrow = column.astype(np.float32)
        if name == "time" or np.array_equal(narrow, column, equal_nan=True):
            table = table.set_column(i, name, pa.array(narrow))
    return table


# ---- the long table


def _long(runs: Sequence[LoggedRun], metrics: Sequence[str] | None, cache: Path) -> pd.DataFrame:
    groups: dict[int, list[LoggedRun]] = {}
    for run in runs:
        groups.setdefault(zlib.crc32(run.run.encode()) % SHARDS, []).append(run)

    def shard(number: int) -> pq.ParquetFile:
        return _shard(cache / f"table-v{VERSION}-{number:02d}.parquet", groups[number])

    with ThreadPoolExecutor(cores()) as pool:
        files = list(pool.map(shard, sorted(groups)))
        long = _Long(runs, files, metrics)
        list(pool.map(long.fill, files))
    return long.frame()


class _Long:
    """The columns of the table, allocated once and filled shard by shard: nothing as large beside them."""

    def __init__(
        self, runs: Sequence[LoggedRun], files: Sequence[pq.ParquetFile], metrics: Sequence[str] | None
    ):
        entries = {entry.run: entry for file in files for entry in _entries(file.schema_arrow)}
        known = {name for run in runs for name in entries[run.run].metrics}
        for name in metrics or ():
            if name not in known:
                raise UserError(f"no run logged a metric '{name}'{nearest(name, known)}")
        wanted = known if metrics is None else set(metrics)
        self.metrics = [sorted(wanted.intersection(entries[run.run].metrics)) for run in runs]
        lengths = [entries[run.run].rows * len(names) for run, names in zip(runs, self.metrics, strict=True)]
        self.starts = np.cumsum([0, *lengths])
        self.index = {run.run: i for i, run in enumerate(runs)}
        self.names = {
            "run": list(self.index),
            **{what: sorted({getattr(run, what) for run in runs}) for what in ("method", "prompt", "state")},
            "metric": sorted(wanted),
        }
        self.runs = runs
        doubles = any(file.schema_arrow.field(name).type == pa.float64() for file in files
                      for name in wanted.intersection(file.schema_arrow.names))  # fmt: skip
        seeds = np.int32 if all(run.seed < 2**31 for run in runs) else np.int64
        kinds = {
            "run": self._code("run"), "method": self._code("method"), "prompt": self._code("prompt"),
            "seed": seeds, "step": np.int32, "time": np.float32, "metric": self._code("metric"),
            "value": np.float64 if doubles else np.float32, "state": self._code("state"),
        }  # fmt: skip
        self.columns = {name: np.empty(self.starts[-1], kind) for name, kind in kinds.items()}

    def _code(self, what: str) -> type[np.signedinteger]:
        """The integer type that pandas gives the codes of so many categories, so that it copies none."""
        return next(t for t in (np.int8, np.int16, np.int32) if len(self.names[what]) < np.iinfo(t).max)

    def fill(self, file: pq.ParquetFile) -> None:
        """Write the rows of a shard's runs to their places, and close the file."""
        with file:
            entries = _entries(file.schema_arrow)
            names = ["step", "time", *self.names["metric"]]
            table = file.read([name for name in names if name in file.schema_arrow.names], use_threads=False)
        wide = {name: table[name].to_numpy() for name in table.column_names}
        for entry, start in _slices(entries):
            i = self.index.get(entry.run)
            if i is None or not self.metrics[i]:
                continue  # a run that is gone, or one without these metrics
            rows = slice(start, start + entry.rows)
            block = {
                name: column[self.starts[i] : self.starts[i + 1]].reshape(len(self.metrics[i]), -1)
                for name, column in self.columns.items()
            }
            block["run"][:] = i
            block["seed"][:] = self.runs[i].seed
            for what in ("method", "prompt", "state"):
                block[what][:] = self.names[what].index(getattr(self.runs[i], what))
            block["step"][:] = wide["step"][rows]
            block["time"][:] = wide["time"][rows]
            for k, name in enumerate(self.metrics[i]):
                block["metric"][k] = self.names["metric"].index(name)
                block["value"][k] = wide[name][rows]

    def frame(self) -> pd.DataFrame:
        """The table, on the columns themselves."""
        columns: dict[str, Any] = {
            name: pd.Categorical.from_codes(cast(Any, column), self.names[name], validate=False)
            if name in self.names
            else column
            for name, column in self.columns.items()
        }
        return pd.DataFrame(columns, copy=False)
