"""`harness bench logs`: how long the table of a whole study takes to load, and how much memory. No torch.

    python -m eval.sources.bench_logs ROOT     loads one folder and prints what it took, as JSON

The logs are real files of the run folder's layout. They are read from the page cache they have just gone
through: a cold disk adds the time it needs for as many bytes.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from harness.config import Config
from harness.console import Console
from harness.records.environment import own_code
from harness.records.files import write_json
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec
from harness.records.schema import METRICS, RESULT

METHODS = ("uniform_sds", "linear_decay", "tp_sds")
SEEDS = 5
FIRST_SECONDS, SECOND_SECONDS, PEAK_BYTES = 60.0, 5.0, 4 * 2**30


@dataclass(frozen=True)
class Load:
    """One load in a process of its own: wall and CPU seconds of `load_logs`, its peak RSS, rows."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    rows: int


@dataclass(frozen=True)
class LogFigures:
    """What `run` measured."""

    runs: int
    log_bytes: int
    cache_bytes: int
    first: Load
    second: Load

    @property
    def ok(self) -> bool:
        """Whether all three bars are met."""
        peak = max(self.first.peak_bytes, self.second.peak_bytes)
        return (
            self.first.seconds < FIRST_SECONDS and self.second.seconds < SECOND_SECONDS and peak < PEAK_BYTES
        )


def run(runs: int = 2295, rows: int = 10_000, console: Console | None = None) -> LogFigures:
    """Make `runs` run folders of `rows` logged steps in a temporary folder, load them twice, delete them.

    Each load is a child process. Prints the figures beside their bars, which are meant for the default size:
    153 prompts × 3 methods × 5 seeds. Needs about 150 bytes of disk a row, 3.6 GB at that size.
    """
    console = console or Console()
    root = Path(tempfile.mkdtemp(prefix="logs-"))
    try:
        log_bytes = generate(root, runs, rows)
        first, second = _load_in_child(root), _load_in_child(root)
        cache_bytes = sum(path.stat().st_size for path in (root / "eval" / "cache").iterdir())
    finally:
        shutil.rmtree(root)
    figures = LogFigures(runs, log_bytes, cache_bytes, first, second)
    table = Table("load", "seconds", "bar", "CPU seconds", "peak RSS, GiB", "bar")
    for name, load, bar in (("first", first, FIRST_SECONDS), ("second", second, SECOND_SECONDS)):
        memory = f"{load.peak_bytes / 2**30:.2f}"
        seconds = (f"{load.seconds:.1f}", f"< {bar:g}", f"{load.cpu_seconds:.1f}")
        table.add_row(name, *seconds, memory, f"< {PEAK_BYTES / 2**30:g}")
    console.print(table)
    console.print(
        f"{runs} runs × {rows} steps, {log_bytes / 1e9:.2f} GB of logs, {cache_bytes / 1e9:.2f} GB of cache, "
        f"{first.rows} rows in the table: {'ok' if figures.ok else 'a bar is missed'}",
        soft_wrap=True,
    )
    return figures


def generate(root: Path, runs: int, rows: int) -> int:
    """Run folders as a sweep leaves them, less views and checkpoints; returns the bytes of their logs.

    A log's text is that of its method and seed, whatever the prompt.
    """
    config = Config(steps=rows)
    logs: dict[tuple[str, int], bytes] = {}
    for index in range(runs):
        prompt, rest = divmod(index, len(METHODS) * SEEDS)
        method, seed = METHODS[rest // SEEDS], rest % SEEDS
        spec = RunSpec(method=method, prompt=f"a vase of shape number {prompt}", seed=seed, config=config)
        folder = RunFolder.create(root, spec)
        log = folder.metrics_path
        if (method, seed) in logs:
            log.write_bytes(logs[method, seed])
        else:
            folder.append_metrics(_rows(METHODS.index(method), seed, rows))
            logs[method, seed] = log.read_bytes()
        write_json(folder.path / RESULT, {"steps": rows}, durable=False)
    return sum(path.stat().st_size for path in root.glob(f"*/{METRICS}"))


def _rows(method: int, seed: int, rows: int) -> list[dict[str, float | int]]:
    """Logged rows with the digits of float32 values: t falls, the gradient's norm scatters by decades."""
    rng = np.random.default_rng((method, seed))
    part = np.arange(1, rows + 1) / rows
    t = rng.integers(20, 981, rows) if method == 0 else (980 - 960 * part).astype(int)
    columns = {
        "step": np.arange(1, rows + 1),
        "time": (rng.uniform(0.05, 0.06, rows).cumsum()).round(3),
        "t": t,
        "grad_norm": rng.lognormal(5, 1, rows).astype(np.float32),
        "opacity": (0.15 + 0.2 * part + rng.normal(0, 0.02, rows)).astype(np.float32),
        "loss_entropy": rng.uniform(2e-4, 3e-4, rows).astype(np.float32),
    }
    names = list(columns)
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(names, row, strict=True)) for row in values]


def _load_in_child(root: Path) -> Load:
    command = [sys.executable, "-m", "eval.sources.bench_logs", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | own_code())
    if done.returncode:
        raise RuntimeError(f"the load failed: {done.stderr[-2000:]}")
    return Load(**json.loads(done.stdout))


def _measure(root: Path) -> Load:
    from eval.sources.logs import load_logs

    started, cpu = time.perf_counter(), time.process_time()
    table = load_logs(root)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Load(seconds, cpu_seconds, peak, len(table))


if __name__ == "__main__":
    print(json.dumps(vars(_measure(Path(sys.argv[1])))))
