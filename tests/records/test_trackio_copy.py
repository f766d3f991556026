"""`harness sync --to trackio` against the real package and its files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.cli import app
from harness.config import Config, UserError
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec
from harness.records.schema import VALUES

STEPS = 20


@pytest.fixture(scope="module")
def trackio(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The package, its files in a folder of the tests'."""
    patch = pytest.MonkeyPatch()
    patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))  # read when it is imported
    import trackio

    return trackio


def ended(root: Path, seed: int, end: str = "done") -> RunFolder:
    spec = RunSpec(method="tp_sds", prompt="a red bus", seed=seed, config=Config(steps=STEPS))
    folder = RunFolder.create(root, spec)
    folder.save_env({"prior": {"tag": "toy-sd", "weights_hash": "f" * 64, "is_toy": True}})
    for step in (10, 20):
        row = {"step": step, "time": step / 8, "loss": seed + step / 7, "odd": None if step == 20 else 1.0}
        folder.append_metrics([row])
        folder.save_views(step, np.full((3, 8, 8, 3), step + seed, np.uint8))
    if end == "done":
        folder.finish({"steps": STEPS, "time": 7.5})
    elif end == "failed":
        folder.fail("diverged", 15)
    return folder


def sync(root: Path, *more: str) -> int:
    return app(["sync", str(root), "--to", "trackio", *more], standalone_mode=False)


def copies(trackio: Any, project: str) -> dict[str, Any]:
    return {run.name: run for run in trackio.Api().runs(project)}


def logged(trackio: Any, project: str, name: str) -> list[dict[str, Any]]:
    from trackio.sqlite_storage import SQLiteStorage

    return SQLiteStorage.get_logs(project, name)


def test_runs_that_ended_are_copied_once_and_whole(
    trackio: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_SPACE_ID", "somebody/else")  # a copy stays on this machine
    root = tmp_path / "runs"
    folders = [ended(root, 0), ended(root, 1, "failed")]
    ended(root, 2, "running")
    assert sync(root, "--study", "one") == 0
    out = capsys.readouterr().out
    assert "3 runs in Trackio project one: 2 uploaded, 0 were whole, 1 running or not begun" in out
    assert "initialized" not in out
    found = copies(trackio, "one")
    assert sorted(found) == sorted(folder.id for folder in folders)
    for folder in folders:
        rows = logged(trackio, "one", folder.id)
        own = folder.metrics()
        assert [(row["step"], row["seconds"], row["loss"], row.get("odd")) for row in rows] == [
            (row["step"], row["time"], row["loss"], row["odd"]) for row in own
        ]
        for row in rows:
            picture = Path(trackio.utils.MEDIA_DIR) / row["views"]["file_path"]
            assert picture.read_bytes() == folder.views_path(row["step"]).read_bytes()
            assert (
                row["views"]["caption"]
                == f"a red bus · tp_sds, seed {folder.spec().seed}, step {row['step']}"
            )
        config = found[folder.id].config
        assert config["status"] == folder.status() and config["prompt"] == "a red bus"
        assert config["_Group"] == "runs"
    assert sync(root, "--study", "one") == 0
    assert "0 uploaded, 2 were whole" in capsys.readouterr().out


def test_a_run_that_was_evaluated_since_or_left_half_way_is_copied_anew(
    trackio: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    folder, other = ended(root, 0), ended(root, 1)
    half = trackio.init(
        project="two", name=f"{folder.id}.part", embed=False, auto_log_gpu=False, auto_log_cpu=False
    )
    half.log({"loss": -1.0}, step=0)
    half.finish()
    sync(root, "--study", "two")
    before = copies(trackio, "two")
    assert sorted(before) == sorted([folder.id, other.id])
    assert len(logged(trackio, "two", folder.id)) == 2
    (folder.path / VALUES).parent.mkdir(exist_ok=True)
    (folder.path / VALUES).write_text('{"r_precision": {"majority": 1.0}}')
    capsys.readouterr()
    sync(root, "--study", "two")
    assert "1 uploaded, 1 were whole" in capsys.readouterr().out
    after = copies(trackio, "two")
    assert after[folder.id].config["eval"] == {"r_precision": {"majority": 1.0}}
    assert after[folder.id].id != before[folder.id].id and after[other.id].id == before[other.id].id
    assert len(logged(trackio, "two", folder.id)) == 2


def test_a_run_that_failed_before_its_first_step_is_there(
    trackio: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = RunSpec(method="tp_sds", prompt="a red bus", seed=0, config=Config(steps=STEPS))
    folder = RunFolder.create(tmp_path / "runs", spec)
    folder.fail("no such prior", 0)
    assert sync(tmp_path / "runs", "--study", "three") == 0 == sync(tmp_path / "runs", "--study", "three")
    assert "0 uploaded, 1 were whole" in capsys.readouterr().out
    [row] = logged(trackio, "three", folder.id)
    assert (row["step"], row["status"]) == (0, "failed")


def test_what_did_not_arrive_is_told_and_sent_again(
    trackio: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    folder, write = ended(tmp_path / "runs", 0), SQLiteStorage.bulk_log

    def lossy(
        project: str, run: str, metrics_list: list[Any], steps: list[int] | None = None, **more: Any
    ) -> Any:
        more = {key: value[:1] if isinstance(value, list) else value for key, value in more.items()}
        return write(project, run, metrics_list[:1], steps=(steps or [])[:1], **more)

    monkeypatch.setattr(SQLiteStorage, "bulk_log", lossy)
    assert sync(tmp_path / "runs", "--study", "four") == 1
    assert "1 of 2 rows are in the project" in capsys.readouterr().err
    assert folder.id not in copies(trackio, "four")
    monkeypatch.undo()
    assert sync(tmp_path / "runs", "--study", "four") == 0
    assert list(copies(trackio, "four")) == [folder.id] and len(logged(trackio, "four", folder.id)) == 2


def test_what_cannot_be_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(tmp_path / "runs", 0)
    with pytest.raises(UserError, match="--entity is W&B's"):
        sync(tmp_path / "runs", "--entity", "me")
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(UserError, match=r"pip install 'dreamtime-harness\[trackio\]'"):
        sync(tmp_path / "runs")
