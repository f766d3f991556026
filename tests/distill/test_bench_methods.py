"""`harness bench methods`: steps of a folder's methods timed in turn, on the tiny prior."""

from __future__ import annotations

import io
import json
import statistics
from pathlib import Path

import pytest
from rich.console import Console

from eval.sources.load import load_runs
from harness import bench_methods
from harness.cli import app
from harness.config import UserError
from harness.records.costs import FILE, read_costs
from harness.records.folder import RunFolder
from tests import tinyruns


def call(*arguments: object) -> None:
    app([str(argument) for argument in arguments], standalone_mode=False)


def test_every_method_is_timed_in_every_round_and_kept(
    tiny_prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_methods, "SECONDS", 0.0)
    names = ("uniform_sds", "tp_sds", "tp_sds:iclr")
    ids = [run for name in names for run in tinyruns.create(tmp_path, tiny_prior, name, runs=1)]
    text = io.StringIO()
    bench_methods.run(tmp_path, rounds=3, console=Console(file=text, width=200))
    assert "ms per run and step" in text.getvalue() and "uniform_sds" in text.getvalue()
    [measured] = read_costs(tmp_path)
    assert set(measured.methods) == {run.cost_key for run in load_runs(tmp_path)[0]} and measured.machine
    assert all(len(cost.seconds) == 3 and cost.nfe == 2 for cost in measured.methods.values())
    for cost in measured.methods.values():  # a step holds its two evaluations, and more
        assert cost.over_denoiser == statistics.median(
            step / (2 * one) for step, one in zip(cost.seconds, cost.evaluation, strict=True)
        )

    before = (tmp_path / FILE).read_bytes()
    bench_methods.run_where_missing(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before, "measured once"
    tinyruns.create(tmp_path, tiny_prior, "linear_decay", runs=1)
    for run in ids:
        RunFolder(tmp_path / run).save_env({"processor": "abacus", "device": "cpu"})
    with pytest.raises(UserError, match=r"made on abacus, and this is .*: run this command on that machine"):
        call("bench", "methods", tmp_path)
    bench_methods.run_where_missing(tmp_path)  # says so, and lets the experiment go on
    assert "wall time is not measured" in capsys.readouterr().out
    assert (tmp_path / FILE).read_bytes() == before and json.loads(before)


def test_only_methods_takes_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bench engine takes no RUNS"):
        call("bench", "engine", tmp_path)
    with pytest.raises(UserError, match="no runs in"):
        call("bench", "methods", tmp_path)
