"""The long table against a plain reading of the same folders, and its cache against every kind of change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.sources import bench_logs, logged, logs
from eval.sources.logs import load_logs, read_log
from harness.config import UserError
from harness.console import Console
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec

COLUMNS = ["run", "method", "prompt", "seed", "step", "time", "metric", "value", "state"]


def _rows(steps: int = 4, scale: float = 1.0) -> list[dict[str, Any]]:
    return [{"step": i, "time": i / 8, "t": 900 - i, "loss": scale * i / 7} for i in range(1, steps + 1)]


def _run(root: Path, seed: int, rows: list[dict[str, Any]] | None = None, **spec: Any) -> RunFolder:
    fields: dict[str, Any] = {"method": "tp_sds", "prompt": "a red bus"} | spec
    folder = RunFolder.create(root, RunSpec(seed=seed, **fields))
    if rows:
        folder.append_metrics(rows)
    return folder


def _plain(folders: list[RunFolder]) -> pd.DataFrame:
    """What the table has to say, read by `RunFolder` alone."""
    lines = []
    for folder in sorted(folders, key=lambda folder: folder.id):
        spec, rows = folder.spec(), folder.metrics()
        for name in sorted({name for row in rows for name in row} - {"step", "time"}):
            for row in rows:
                value = row.get(name)
                value = np.nan if value is None else float(value)
                here = (row["step"], row["time"], name, value)
                lines.append((folder.id, spec.label, spec.prompt, spec.seed, *here, folder.status()))
    return pd.DataFrame(lines, columns=COLUMNS)


def _assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(
        found, expected, check_dtype=False, check_categorical=False, check_column_type=False, rtol=1e-6
    )


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs count as written long ago, so that the cache is trusted at once."""
    now = time.time
    monkeypatch.setattr(logged.time, "time", lambda: now() + 60)


def _replace(path: Path, data: bytes) -> None:
    """Write over a file in place, later than its last change by the file system's clock."""
    before = path.stat().st_ctime_ns
    path.write_bytes(data)
    while path.stat().st_ctime_ns == before:
        time.sleep(1e-3)
        os.utime(path)


def test_the_table_says_what_the_folders_say(tmp_path: Path) -> None:
    done = _run(tmp_path, 0, _rows())
    done.finish({"steps": 4})
    failed = _run(tmp_path, 1, [{"step": 1, "time": 0.5, "t": 7, "loss": float("nan"), "extra": 1}])
    failed.fail("diverged", 1)
    other = _run(tmp_path, 0, _rows(2), method="vsd", params={"m": 1}, params_set=("m",), variant="iclr")
    silent = _run(tmp_path, 5)
    found = load_logs(tmp_path)
    _assert_same(found, _plain([done, failed, other, silent]))
    assert set(found["state"]) == {"done", "failed", "new"} and "vsd:iclr" in set(found["method"])
    kinds = {name: str(kind) for name, kind in found.dtypes.items()}
    assert kinds == dict.fromkeys(COLUMNS, "category") | {
        "seed": "int32",
        "step": "int32",
        "time": "float32",
        "value": "float64",
    }
    assert silent.id in found["run"].cat.categories and found.attrs["problems"] == []


def test_metrics_select_and_an_unknown_one_names_the_nearest(tmp_path: Path) -> None:
    runs = [_run(tmp_path, seed, _rows()) for seed in range(3)]
    everything = _plain(runs)
    wanted = everything.query("metric == 'loss'").reset_index(drop=True)
    _assert_same(load_logs(tmp_path, ["loss"]), wanted)
    assert load_logs(tmp_path, []).empty
    with pytest.raises(UserError, match="no run logged a metric 'los'; did you mean 'loss'"):
        load_logs(tmp_path, ["los"])


def test_an_unreadable_run_is_told_and_no_runs_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no runs in"):
        load_logs(tmp_path)
    with pytest.raises(UserError, match="no folder"):
        load_logs(tmp_path / "nowhere")
    victim = _run(tmp_path, 1, _rows())
    (victim.path / "spec.json").write_text('{"method": ')
    with pytest.raises(UserError, match=r"damaged: spec\.json: is no whole JSON"):
        load_logs(tmp_path)
    good = _run(tmp_path, 0, _rows())
    found = load_logs(tmp_path)
    _assert_same(found, _plain([good]))
    assert len(found.attrs["problems"]) == 1 and victim.id in found.attrs["problems"][0]


NUMBERS = st.none() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False)
ROWS = st.lists(st.dictionaries(st.sampled_from(["a", "b", "loss/c", "ö"]), NUMBERS), max_size=6)
NOISE = st.sampled_from([b"{\n", b"\n", b"\xff\n", b"7\n", b'{"step": 3, "a": "word"}\n', b'{"a": 1}\n'])


@settings(max_examples=60, deadline=None)
@given(ROWS, st.lists(st.tuples(st.integers(0, 6), NOISE), max_size=2), st.integers(0, 40))
def test_a_log_is_read_as_the_run_folder_reads_it(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict], noise: list[tuple[int, bytes]], cut: int
) -> None:
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    lines = [json.dumps({"step": i, "time": i / 4, **row}).encode() + b"\n" for i, row in enumerate(rows)]
    for place, line in noise:
        lines.insert(place, line)
    data = b"".join(lines)
    (folder.path / "metrics.jsonl").write_bytes(data[: len(data) - cut])
    log = read_log(folder.path / "metrics.jsonl").to_pandas()
    plain = [row for row in folder.metrics() if isinstance(row, dict) and "step" in row]
    assert log["step"].tolist() == [row["step"] for row in plain]
    assert str(log["step"].dtype) == "int32" and set(log.dtypes[1:]) <= {np.dtype("float64")}
    for name in {name for row in plain for name in row} - {"step"}:
        values = [row.get(name) for row in plain]
        if name in log:
            numbers = [float(v) if isinstance(v, int | float) else np.nan for v in values]
            np.testing.assert_array_equal(log[name], numbers)
        else:
            assert not any(isinstance(v, int | float) for v in values)


def test_an_unchanged_run_is_not_parsed_again(
    tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [_run(tmp_path, seed, _rows()) for seed in range(3)]
    first = load_logs(tmp_path)
    parsed: list[str] = []
    monkeypatch.setattr(logs, "read_log", lambda path: parsed.append(path.parent.name) or read_log(path))
    pd.testing.assert_frame_equal(load_logs(tmp_path), first)
    assert parsed == []
    runs[1].append_metrics([{"step": 9, "time": 2.0, "t": 1, "loss": 0.5, "new": 3}])
    runs[2].finish({"steps": 4})
    _assert_same(load_logs(tmp_path), _plain(runs))
    assert parsed == [runs[1].id]


def test_a_rewrite_of_equal_size_tail_and_mtime_is_seen(
    tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logged, "TAIL_BYTES", 20)
    run = _run(tmp_path, 0, _rows())
    load_logs(tmp_path)
    log = run.path / "metrics.jsonl"
    before, data = log.stat(), log.read_bytes()
    _replace(log, data.replace(b"899", b"123"))
    os.utime(log, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert log.stat().st_mtime_ns == before.st_mtime_ns and log.stat().st_size == before.st_size
    found = load_logs(tmp_path, ["t"])
    assert found["value"].tolist() == [123, 898, 897, 896]


def test_a_log_that_has_just_changed_is_never_trusted(tmp_path: Path) -> None:
    run = _run(tmp_path, 0, _rows())
    log = run.path / "metrics.jsonl"
    for value in (b"111", b"222", b"333"):  # as fast as can be: perhaps in one tick of the clock
        log.write_bytes(b'{"step": 1, "time": 1, "t": ' + value + b"}\n")
        assert load_logs(tmp_path)["value"].tolist() == [float(value)]


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["append", "rewrite", "cut", "delete", "finish", "empty"]), st.integers(0, 3)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=12, deadline=None)
@given(OPERATIONS)
def test_whatever_changes_between_loads_the_cache_never_shows(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, int]]
) -> None:
    root = tmp_path_factory.mktemp("runs")
    keeper = _run(root, 99, _rows())
    with pytest.MonkeyPatch.context() as patch:
        now = time.time
        patch.setattr(logged.time, "time", lambda: now() + 60)
        for number, (what, seed) in enumerate(operations):
            run = _run(root, seed)
            log = run.path / "metrics.jsonl"
            data = log.read_bytes() if log.exists() else b""
            log.touch()
            if what == "append":
                _replace(log, data)  # moves the clock on
                run.append_metrics(_rows(3, scale=number + 1))
            elif what == "rewrite":
                run.truncate_metrics(1)
            elif what == "cut":
                _replace(log, data[: len(data) // 2])
            elif what == "delete":
                for path in run.path.iterdir():
                    path.unlink()
                run.path.rmdir()
            elif what == "finish":
                run.finish({"steps": 1})
            else:
                log.unlink()
            present = [RunFolder(path.parent) for path in root.glob("*/spec.json")]
            _assert_same(load_logs(root), _plain(present))
    assert keeper.id in set(load_logs(root)["run"])


def test_a_spoilt_cache_is_made_anew_and_an_unwritable_one_is_done_without(
    tmp_path: Path, settled: None
) -> None:
    runs = [_run(tmp_path, seed, _rows()) for seed in range(2)]
    load_logs(tmp_path)
    for file in (tmp_path / "eval" / "cache").iterdir():
        file.write_bytes(b"no parquet")
    _assert_same(load_logs(tmp_path), _plain(runs))
    other = tmp_path / "other"
    elsewhere = _run(other, 7, _rows())
    (other / "eval").write_text("a file where the cache's folder would be")
    _assert_same(load_logs(other), _plain([elsewhere]))


def test_the_benchmark_makes_real_runs_and_loads_all_of_them() -> None:
    text = StringIO()
    figures = bench_logs.run(runs=16, rows=30, console=Console(file=text, width=120))
    assert figures.first.rows == figures.second.rows == 16 * 30 * 4
    assert figures.log_bytes > 16 * 30 * 100 and figures.first.peak_bytes > 50e6
    assert "16 runs × 30 steps" in text.getvalue()


def test_generated_runs_are_what_the_harness_reads(tmp_path: Path) -> None:
    bench_logs.generate(tmp_path, runs=16, rows=5)
    found = load_logs(tmp_path)
    counts = tuple(len(found[name].unique()) for name in ("prompt", "method", "seed"))
    assert counts == (2, 3, 5) and set(found["state"]) == {"done"}
    assert set(found["metric"]) == {"t", "grad_norm", "opacity", "loss_entropy"}
    assert found["value"].dtype == np.float32  # exact: these values were float32 when they were logged
    _assert_same(found, _plain([RunFolder(path.parent) for path in tmp_path.glob("*/spec.json")]))


def test_loading_imports_neither_torch_nor_wandb() -> None:
    code = (
        "import sys; from eval.sources import bench_logs, foreign, logs, wandb_logs;"
        "assert not {'torch', 'wandb'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
