"""The W&B mirror, read back with wandb's own tooling, against metrics.jsonl; and a mirror that breaks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import wandb

from harness.records.folder import RunFolder
from harness.records.identity import RunSpec
from harness.records.tracking import Tracker


def _folder(root: Path, seed: int) -> RunFolder:
    return RunFolder.create(root, RunSpec(method="tp_sds", prompt="a red bus", seed=seed))


def _inspect(wandb_file: Path) -> list[dict]:
    """Every record of a .wandb file, by `wandb leet inspect --json`."""
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(wandb_file)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in out.splitlines()]


def _history(records: list[dict]) -> dict[int, dict]:
    rows = {}
    for record in records:
        if record["type"] == "history":
            items = record["history"]["item"] if "item" in record["history"] else record["history"]
            rows[items["_step"]] = {k: v for k, v in items.items() if not k.startswith("_")}
    return rows


def test_the_mirror_of_several_runs_at_once_holds_the_same_values(tmp_path: Path):
    folders = [_folder(tmp_path, seed) for seed in range(3)]
    trackers = [Tracker(f, f.spec(), "offline", study="study", sweep="sweep") for f in folders]
    for step in range(10, 60, 10):
        for seed, tracker in enumerate(trackers):
            tracker.log(step, {"loss": seed + step / 7, "t": 500 - step})
    for tracker in trackers:
        tracker.finish()
    for folder in folders:
        (mirror,) = (tmp_path / "wandb").glob(f"offline-run-*-{folder.id}/run-{folder.id}.wandb")
        records = _inspect(mirror)
        run = next(record["run"] for record in records if record["type"] == "run")
        assert (run["project"], run["run_group"], run["job_type"], run["run_id"]) == (
            "study",
            "sweep",
            "tp_sds",
            folder.id,
        )
        truth = {row.pop("step"): row for row in folder.metrics()}
        assert _history(records) == truth and len(truth) == 5


def test_a_resumed_run_tells_the_mirror_its_whole_story(tmp_path: Path):
    folder = _folder(tmp_path, 0)
    first = Tracker(folder, folder.spec(), "offline")
    for step in (10, 20, 30):
        first.log(step, {"loss": step / 3})
    first.finish()
    folder.truncate_metrics(20)
    second = Tracker(folder, folder.spec(), "offline")
    assert second.seconds() >= folder.metrics()[-1]["time"]
    second.log(30, {"loss": 11.0})
    second.finish()
    histories = [
        _history(_inspect(path)) for path in sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    ]
    truth = {row.pop("step"): row for row in folder.metrics()}
    assert truth in histories and truth[30]["loss"] == 11.0


def test_a_broken_mirror_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = _folder(tmp_path, 0)
    tracker = Tracker(folder, folder.spec(), "offline")
    monkeypatch.setattr(wandb.Run, "log", lambda *a, **k: 1 / 0)
    tracker.log(1, {"loss": 1.0})
    tracker.log(2, {"loss": 2.0})
    tracker.finish()
    assert [row["step"] for row in folder.metrics()] == [1, 2]
    assert "mirror given up (division by zero)" in (folder.path / "log.txt").read_text()

    monkeypatch.setattr(wandb, "init", lambda **k: 1 / 0)
    tracker = Tracker(folder, folder.spec(), "offline")
    tracker.log(3, {"loss": 3.0})
    tracker.finish()
    assert len(folder.metrics()) == 3


def test_online_without_a_key_goes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    folder = _folder(tmp_path, 0)
    tracker = Tracker(folder, folder.spec(), "online")
    tracker.log(1, {"loss": 1.0})
    tracker.finish()
    assert list((tmp_path / "wandb").glob("offline-run-*"))
    assert "no WANDB_API_KEY" in (folder.path / "log.txt").read_text()
