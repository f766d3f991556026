"""The W&B mirror, read back with wandb's own tooling, against metrics.jsonl; and a mirror that breaks."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import wandb

from harness.records import tracking
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec
from harness.records.tracking import Tracker, leave


@pytest.fixture(autouse=True)
def own_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test that breaks W&B breaks it for itself alone."""
    monkeypatch.setattr(tracking, "_the_follower", None)
    yield
    wandb.teardown()


def _folder(root: Path, seed: int) -> RunFolder:
    return RunFolder.create(root, RunSpec(method="tp_sds", prompt="a red bus", seed=seed))


def _log(tracker: Tracker, rows: Mapping[int, Mapping[str, float]]) -> None:
    """Rows as the runner logs them, with a checkpoint after the last."""
    for step, scalars in rows.items():
        tracker.log(step, scalars)
    tracker.settle(max(rows))


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


def _truth(folder: RunFolder) -> dict[int, dict]:
    return {row.pop("step"): row for row in folder.metrics()}


def _last_log(folder: RunFolder) -> str:
    return (folder.path / "log.txt").read_text().splitlines()[-1]


def test_the_mirror_of_several_runs_at_once_holds_the_same_values(tmp_path: Path):
    folders = [_folder(tmp_path, seed) for seed in range(3)]
    trackers = [Tracker(f, f.spec(), "offline", study="study", sweep="sweep") for f in folders]
    for step in range(10, 60, 10):
        for seed, tracker in enumerate(trackers):
            _log(tracker, {step: {"loss": seed + step / 7, "t": 500 - step}})
    for tracker in trackers:
        tracker.finish()
    leave()
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
        assert _history(records) == _truth(folder) and len(folder.metrics()) == 5


def test_a_resumed_run_tells_the_mirror_its_whole_story(tmp_path: Path):
    folder = _folder(tmp_path, 0)
    first = Tracker(folder, folder.spec(), "offline")
    _log(first, {step: {"loss": step / 3} for step in (10, 20)})
    first.log(30, {"loss": 10.0})  # past the checkpoint
    first.finish()
    leave()
    before = _truth(folder)
    folder.truncate_metrics(20)
    second = Tracker(folder, folder.spec(), "offline")
    assert second.seconds() >= folder.metrics()[-1]["time"]
    _log(second, {30: {"loss": 11.0}})
    second.finish()
    leave()
    one, other = (
        _history(_inspect(path)) for path in sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    )
    del before[30]  # the mirror of a stretch ends where the next one begins
    assert one == before
    assert other == _truth(folder) and other[30]["loss"] == 11.0


def test_a_broken_mirror_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = _folder(tmp_path, 0)
    tracker = Tracker(folder, folder.spec(), "offline")
    monkeypatch.setattr(wandb.Run, "log", lambda *a, **k: 1 / 0)
    _log(tracker, {1: {"loss": 1.0}})
    _log(tracker, {2: {"loss": 2.0}})
    tracker.finish()
    leave()
    assert [row["step"] for row in folder.metrics()] == [1, 2]
    assert f"mirror stopped (division by zero); `harness sync {tmp_path}`" in _last_log(folder)

    other = _folder(tmp_path, 1)
    monkeypatch.setattr(wandb, "init", lambda **k: [][0])
    tracker = Tracker(other, other.spec(), "offline")
    _log(tracker, {3: {"loss": 3.0}})
    tracker.finish()
    leave()
    assert len(other.metrics()) == 1 and "mirror stopped (list index out of range)" in _last_log(other)


def test_a_run_that_was_lost_tells_no_end(tmp_path: Path):
    folder = _folder(tmp_path, 0)
    lease = folder.acquire("here")
    assert lease is not None
    tracker = Tracker(folder, folder.spec(), "offline")
    _log(tracker, {10: {"loss": 1.0}})
    taker = RunFolder(folder.path)
    (folder.path / "lease.json").unlink()
    assert taker.acquire("there") is not None
    taker.append_metrics([{"step": 20, "time": 2.0, "loss": 2.0}])
    taker.finish({"steps": 20})
    tracker.finish()
    leave()
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert set(_history(_inspect(file))) == {10}


def test_online_without_a_key_goes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    folder = _folder(tmp_path, 0)
    tracker = Tracker(folder, folder.spec(), "online")
    _log(tracker, {1: {"loss": 1.0}})
    tracker.finish()
    leave()
    assert list((tmp_path / "wandb").glob("offline-run-*"))
    assert "no WANDB_API_KEY" in (folder.path / "log.txt").read_text()
