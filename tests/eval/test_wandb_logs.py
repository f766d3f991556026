"""What W&B keeps of runs, read back as the table of the run folders themselves.

Offline files are really logged; the server is that of tests/wandb_server.py.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import wandb

from eval.sources import logged, wandb_logs
from eval.sources.logs import load_logs
from harness.config import Config, UserError
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec
from harness.records.tracking import Tracker, leave
from tests.wandb_server import Server, server

__all__ = ["server"]  # a fixture

STEPS = 50


def _folder(root: Path, seed: int, prompt: str = "a red bus") -> RunFolder:
    spec = RunSpec(method="tp_sds", prompt=prompt, seed=seed, config=Config(steps=STEPS))
    return RunFolder.create(root, spec)


def _scalars(seed: int, step: int) -> dict[str, Any]:
    return {"t": 900 - step, "grad_norm": (seed + 1) * step / 7, "opacity": None if step == 20 else 0.25}


def _logged(folder: RunFolder, first: int, last: int) -> None:
    tracker = Tracker(folder, folder.spec(), "offline", study="study", sweep="sweep")
    for step in range(first, last + 1, 10):
        tracker.log(step, _scalars(folder.spec().seed, step))
        tracker.settle(step)
    tracker.finish()
    leave()
    _wait_for_files(folder.path.parent)


def _wait_for_files(root: Path) -> None:
    """W&B's `finish` returns a moment before its process has written the end of the offline file."""
    deadline = time.monotonic() + 30
    for path in root.glob("wandb/offline-run-*/run-*.wandb"):
        while "exit" not in {record["type"] for record in wandb_logs._inspect(path)}:
            assert time.monotonic() < deadline, f"{path} has no end"
            time.sleep(0.05)


# ---- offline files


def test_offline_files_give_the_table_of_the_run_folders(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    done, resumed = _folder(runs, 0), _folder(runs, 1)
    _logged(done, 10, STEPS)
    done.finish({"steps": STEPS})
    _logged(resumed, 10, 30)
    resumed.truncate_metrics(20)
    _logged(resumed, 30, 40)  # the second segment tells the first two rows again
    truth = load_logs(runs)
    assert len(list(runs.glob("wandb/offline-run-*"))) == 3
    mirror = load_logs(runs / "wandb")
    words = truth["state"].astype(str).replace("new", "resume")  # a mirror knows of no checkpoint
    pd.testing.assert_frame_equal(mirror.assign(state=mirror["state"].astype(str)), truth.assign(state=words))
    assert set(mirror.query("state == 'done'")["run"]) == {done.id}

    (file,) = runs.glob(f"wandb/offline-run-*-{done.id}/run-*.wandb")
    alone = load_logs(file, ["grad_norm"], cache=tmp_path / "cache")
    assert alone["value"].tolist() == [step / 7 for step in range(10, STEPS + 1, 10)]
    cut, junk = tmp_path / "cut.wandb", tmp_path / "junk.wandb"
    cut.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 4])
    part = load_logs(cut, ["grad_norm"], cache=tmp_path / "cache")
    assert 0 < len(part) < len(alone) and set(part["state"]) == {"resume"}
    junk.write_bytes(b"no W&B file at all")
    with pytest.raises(UserError, match=f"{junk}: no readable W&B run"):
        load_logs(junk, cache=tmp_path / "cache")


def test_an_offline_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logged, "SETTLED_SECONDS", 0)
    folder = _folder(tmp_path, 3)
    _logged(folder, 10, 20)
    mirror = tmp_path / "wandb"
    first = load_logs(mirror)
    with monkeypatch.context() as patch:
        patch.setattr(wandb_logs, "_inspect", lambda path: pytest.fail(f"{path} was read again"))
        pd.testing.assert_frame_equal(load_logs(mirror), first)
    shutil.rmtree(mirror / "eval")
    (mirror / "eval").write_text("a file where the cache's folder would be")
    pd.testing.assert_frame_equal(load_logs(mirror), first)


def test_somebody_elses_offline_run_is_told(tmp_path: Path) -> None:
    settings = wandb.Settings(x_disable_stats=True, console="off", silent=True)
    run = wandb.init(project="p", dir=str(tmp_path), mode="offline", config={"lr": 1}, settings=settings)
    run.log({"loss": 1.0})
    run.finish()
    _wait_for_files(tmp_path)
    with pytest.raises(UserError, match="no run of this harness, its W&B config has no prompt and seed"):
        load_logs(tmp_path, cache=tmp_path / "cache")


# ---- a server


@pytest.fixture
def study(tmp_path: Path, server: Server) -> list[RunFolder]:
    """Three runs of one sweep and one of another, finished, in their folders and on the server."""
    folders = [_folder(tmp_path / "runs", seed) for seed in range(3)]
    folders.append(_folder(tmp_path / "others", 3))
    for folder in folders:
        rows = [
            {"step": step, "time": step / 8, **_scalars(folder.spec().seed, step)}
            for step in range(10, STEPS + 1, 10)
        ]
        folder.append_metrics(rows)
        folder.finish({"steps": STEPS})
        server.add(folder, folder.path.parent.name)
    return folders


def test_a_server_gives_the_table_of_the_run_folders(
    tmp_path: Path, server: Server, study: list[RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_logs, "PAGE", 20)  # steps: three pages a history
    mirror = load_logs("wandb:entity/project/runs")
    pd.testing.assert_frame_equal(mirror, load_logs(tmp_path / "runs"))
    assert len(server.asked["Runs"]) == 2 and len(server.asked["HistoryPage"]) == 3 * 3
    assert len(load_logs("wandb:entity/project")) == 4 * 5 * 3


def test_only_a_run_that_went_on_is_fetched_again(
    tmp_path: Path, server: Server, study: list[RunFolder]
) -> None:
    load_logs("wandb:entity/project/runs")
    pages = len(server.asked["HistoryPage"])
    again = load_logs("wandb:entity/project/runs")
    assert len(server.asked["HistoryPage"]) == pages == 3 and set(again["state"]) == {"done"}

    study[1].append_metrics([{"step": 60, "time": 9.0, "t": 5, "grad_norm": 1.0, "opacity": 1.0}])
    server.add(study[1], "runs", state="running")
    later = load_logs("wandb:entity/project/runs")
    assert len(server.asked["HistoryPage"]) == pages + 1
    assert set(later.query("step == 60")["run"]) == {study[1].id}
    assert set(later["state"]) == {"done", "running"}


def test_a_busy_server_is_asked_again_later(tmp_path: Path, server: Server, study: list[RunFolder]) -> None:
    server.stumble = {"Runs": [500], "HistoryPage": [429]}
    mirror = load_logs("wandb:entity/project/others")
    pd.testing.assert_frame_equal(mirror, load_logs(tmp_path / "others"))
    for name in ("Runs", "HistoryPage"):
        first, second = server.asked[name]
        assert second - first > 1.5  # seconds


def test_what_is_wrong_is_told_in_one_line(
    tmp_path: Path, server: Server, study: list[RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(source: str) -> str:
        with pytest.raises(UserError) as caught:
            load_logs(source)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    for malformed in ("wandb:", "wandb:entity", "wandb:entity/", "wandb:/project"):
        assert "write wandb:entity/project[/group]" in told(malformed)
    assert "no project 'entity/nothing'" in told("wandb:entity/nothing")
    assert "no runs of the group 'run'; did you mean 'runs'?" in told("wandb:entity/project/run")
    server.stumble = {"Runs": [403]}
    assert "W&B says: not now" in told("wandb:entity/project")
    server.key_is_good = False
    assert "Failed to verify credentials" in told("wandb:entity/project")
    monkeypatch.setattr(wandb_logs, "LISTING_SECONDS", 1)
    server.stumble = {"Viewer": [503] * 9}
    assert "W&B says: " in told("wandb:entity/project")
    wandb.teardown()  # forgets the key
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert "set WANDB_API_KEY" in told("wandb:entity/project")


def test_values_that_json_cannot_say_are_nan() -> None:
    item = {"_step": 3, "_runtime": 2.5, "a": "NaN", "b": float("inf"), "c": None, "d": "word", "e": True}
    row = wandb_logs.history_row(item | {"image": {"_type": "image-file"}, "step": 99})
    assert row == {"step": 3, "time": 2.5, "a": None, "b": None, "c": None, "e": True}
