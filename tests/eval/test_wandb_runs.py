"""Figures and tables of runs in W&B: the bytes of those from the run folders that were synced there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from eval.sources.wandb_runs import run_folders_of
from harness.cli import app
from harness.config import UserError
from harness.records.folder import DEATHS_ALLOWED, RunFolder, run_folders
from tests.eval.conftest import PROMPTS, Sweep
from tests.wandb_server import Server, StoredRun, server

__all__ = ["server"]  # a fixture

SOURCE = "wandb:entity/study/runs"
TABLES = ("r_precision", "convergence", "differences")


def call(*arguments: object) -> None:
    app([str(argument) for argument in arguments], standalone_mode=False)


def files(folder: Path, *suffixes: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.suffix in suffixes}


@pytest.fixture
def synced(runs: Sweep, server: Server) -> Sweep:
    """Two methods, three prompts and two seeds, and a run that failed; all of them in W&B."""
    runs.add("uniform_sds", PROMPTS[3], 0, end="failed")
    runs.add("tp_sds", PROMPTS[3], 0, params={"m": 500.0, "prior": "snr"})
    call("sync", runs.root, "--study", "study")
    return runs


@pytest.mark.journey
def test_figures_and_tables_of_a_synced_project_are_those_of_the_runs(
    synced: Sweep, clip_folder: Path, tmp_path: Path
) -> None:
    options = ["--clip", clip_folder, "--device", "cpu"]
    more = ["--prior-samples", 0, "--allow-mixed"]
    names = ["r_precision", "steps_grid", "seeds_grid", "methods_grid", "spectra"]
    for source, out in ((str(synced.root), tmp_path / "folders"), (SOURCE, tmp_path / "wandb")):
        call("figures", source, *names, "diversity", "--out", out, *options, *more)
        call("tables", source, *TABLES, "--out", out / "tables", *options, *more)
        call("eval", source, "--out", out / "eval", "--allow-mixed", *options)
    kinds = (".pdf", ".png", ".md", ".csv", ".tex")
    here, there = files(tmp_path / "folders", *kinds), files(tmp_path / "wandb", *kinds)
    assert len(here) >= 2 * 6 + 3 * 3 + 4 and here.keys() == there.keys()
    assert [name for name in here if here[name] != there[name]] == []
    about = json.loads((tmp_path / "wandb" / "diversity.json").read_bytes())
    assert about["command"].startswith(f"harness figures {SOURCE}")
    command = {"command": "harness figures …"}
    assert "No rows of wall time" in (tmp_path / "wandb" / "tables" / "convergence.md").read_text()
    assert about | command == json.loads((tmp_path / "folders" / "diversity.json").read_bytes()) | command


def test_a_rebuilt_folder_holds_the_files_of_the_run(synced: Sweep, tmp_path: Path) -> None:
    imported = synced.add("theirs", PROMPTS[3], 0)
    (imported.path / "metrics.jsonl").unlink()  # views alone
    given_up = synced.add("tp_sds", PROMPTS[4], 0, end="new")
    for _ in range(DEATHS_ALLOWED):
        given_up.record_death(step=0)
    assert given_up.status() == "failed" and not (given_up.path / "failure.json").exists()
    call("sync", synced.root, "--study", "study")
    root, problems = run_folders_of(SOURCE, tmp_path / "cache")
    assert problems == []
    for folder in run_folders(synced.root):
        again = RunFolder(root / folder.id)
        for path in [*folder.path.glob("*.json"), *folder.path.glob("views/*")]:
            if path.name not in ("wandb.json", "deaths.json"):
                assert (again.path / path.relative_to(folder.path)).read_bytes() == path.read_bytes()
        assert again.metrics() == folder.metrics() and again.status() == folder.status()
        assert again.failure() == folder.failure()
    (suite,) = (synced.root / "suites").iterdir()
    assert (root / "suites" / suite.name).read_bytes() == suite.read_bytes()


def test_only_what_changed_is_fetched_again(synced: Sweep, server: Server, tmp_path: Path) -> None:
    root, _ = run_folders_of(SOURCE, tmp_path / "cache")
    before = len(server.asked["storage"]), len(server.asked["HistoryPage"])
    assert run_folders_of(SOURCE, tmp_path / "cache") == (root, [])
    assert (len(server.asked["storage"]), len(server.asked["HistoryPage"])) == before
    added = synced.add("tp_sds", PROMPTS[4], 0)
    gone = next(folder for folder in run_folders(synced.root) if folder.id != added.id)
    call("sync", synced.root, added.id, "--study", "study")
    del server.stored["study", gone.id]
    pages = len(server.asked["HistoryPage"])
    run_folders_of(SOURCE, tmp_path / "cache")
    assert len(server.asked["HistoryPage"]) == pages + 1
    assert (root / added.id / "result.json").exists() and not (root / gone.id).exists()


def test_what_is_not_whole_is_left_out_and_told(
    synced: Sweep, server: Server, clip_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, unfinished, *_ = run_folders(synced.root)
    stored = server.runs[first.id]
    picture = next(name for name in stored.files if name.startswith("media/images/"))
    del stored.files[picture]
    changed = next(name for name in server.runs[second.id].files if name.startswith("media/images/"))
    server.runs[second.id].files[changed] = b"something else"
    server.runs[unfinished.id].summary = {"status": "running"}
    server.stored["study", "theirs"] = StoredRun(group="runs", lines=['{"_step": 0, "loss": 1}'])
    capsys.readouterr()
    call("eval", SOURCE, "--out", tmp_path, "--clip", clip_folder, "--device", "cpu", "--allow-mixed")
    told = capsys.readouterr()
    assert f"left out: {first.id}: not whole in W&B, which lacks {picture}; `harness sync`" in told.err
    assert f"left out: {second.id}: the views of step " in told.err
    assert "left out: theirs: no run of this harness, method: Field required" in told.err
    assert "1 unfinished runs are left out" in told.out

    (first.path / "wandb.json").unlink()
    call("sync", synced.root, first.id, "--study", "study")
    root, problems = run_folders_of(SOURCE)
    assert len(problems) == 2 and (root / first.id / "result.json").exists()


def test_nothing_of_ours_is_told_in_one_line(server: Server, runs: Sweep) -> None:
    for folder in run_folders(runs.root):
        server.add(folder, "runs")
        server.runs[folder.id].config.clear()
    with pytest.raises(UserError, match="no run of this harness, method: Field required"):
        run_folders_of("wandb:entity/project/runs")
    shutil.rmtree(runs.root)
    with pytest.raises(UserError, match=r"write wandb:entity/project\[/group\]"):
        call("figures", "wandb:entity", "r_precision")
