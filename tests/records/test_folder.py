"""Run folders on disk: what survives a kill, who may write, and what a reader sees."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.config import UserError
from harness.records import files, lease
from harness.records import folder as folder_module
from harness.records.files import ImageTooLarge, tiles
from harness.records.folder import RunFolder, run_folders
from harness.records.identity import RunSpec
from harness.records.lease import LeaseLost
from harness.records.reader import RecordError

SPEC = RunSpec(method="tp_sds", prompt="a red bus", seed=0)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, SPEC)


def test_status_follows_from_files(folder: RunFolder):
    assert folder.status() == "new"
    held = folder.acquire("test")
    assert held and folder.status() == "running"
    folder.save_checkpoint({"a": torch.ones(2)}, 5)
    held.release()
    assert folder.status() == "resume"
    with pytest.raises(LeaseLost):
        folder.fail("diverged", 7)
    folder = RunFolder(folder.path)
    folder.fail("diverged", 7, "loss is nan")
    assert folder.status() == "failed" and folder.acquire("test") is None
    assert folder.forget_failure() and folder.status() == "resume"
    folder.finish({"step": 10})
    assert folder.status() == "done" and folder.acquire("test") is None
    assert folder.spec() == SPEC


def test_create_is_idempotent_and_repairs_a_torn_spec(folder: RunFolder):
    before = (folder.path / "spec.json").read_text()
    (folder.path / "spec.json").write_text(before[: len(before) // 2])
    assert RunFolder.create(folder.path.parent, SPEC).spec() == SPEC
    assert [f.id for f in run_folders(folder.path.parent)] == [folder.id]


def test_metrics_survive_a_torn_line_and_are_cut_at_the_checkpoint(folder: RunFolder):
    folder.append_metrics(
        [{"step": i, "time": i / 3, "loss": float("nan") if i == 2 else i * 0.1} for i in range(1, 6)]
    )
    folder.save_views(4, np.zeros((2, 8, 8, 3), np.uint8))
    with open(folder.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "ti')
    assert [row["step"] for row in folder.metrics()] == [1, 2, 3, 4, 5]
    assert folder.metrics()[1]["loss"] is None
    kept = (folder.path / "metrics.jsonl").read_text().splitlines()[:3]
    folder.truncate_metrics(3)
    assert (folder.path / "metrics.jsonl").read_text().splitlines() == kept
    assert folder.view_steps() == []


def test_views_come_back_as_they_were(folder: RunFolder):
    images = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    folder.save_views(400, images)
    assert folder.view_steps() == [400]
    assert np.array_equal(folder.views(400), images)
    with pytest.raises(ValueError):
        folder.save_views(1, images[:, :8])


def test_checkpoints_round_trip_and_refuse_foreign_or_torn_files(folder: RunFolder, tmp_path: Path):
    assert folder.load_checkpoint() is None
    pack = torch.randn(3, 4, 5)
    folder.save_checkpoint({"table": pack[1], "count": torch.tensor(7)}, 12)
    loaded = folder.load_checkpoint()
    assert loaded and loaded[1] == 12 and torch.equal(loaded[0]["table"], pack[1])

    other = RunFolder.create(tmp_path, SPEC.model_copy(update={"seed": 1}))
    data = (folder.path / "checkpoint.safetensors").read_bytes()
    (other.path / "checkpoint.safetensors").write_bytes(data)
    with pytest.raises(RecordError, match="belongs to"):
        other.load_checkpoint()
    for cut in (0, 7, 60, len(data) - 1):
        (folder.path / "checkpoint.safetensors").write_bytes(data[:cut])
        with pytest.raises(RecordError, match="cannot be read"):
            folder.load_checkpoint()


def test_a_lease_keeps_everybody_else_out_and_fences_its_loser(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
):
    first = folder.acquire("first")
    assert first and first.held() and first.beat()
    second_view = RunFolder(folder.path)
    assert second_view.acquire("second") is None

    long_ago = time.time() - lease.STALE_SECONDS - 1  # as if the holder had been stopped for that long
    os.utime(folder.path / "lease.json", (long_ago, long_ago))
    second = second_view.acquire("second")
    assert second and second.held() and not first.held() and not first.beat()
    for write in (
        lambda: folder.append_metrics([{"step": 1}]),
        lambda: folder.save_checkpoint({"a": torch.ones(1)}, 1),
        lambda: folder.save_views(1, np.zeros((1, 8, 8, 3), np.uint8)),
        lambda: folder.finish({}),
        lambda: folder.fail("no", 1),
    ):
        with pytest.raises(LeaseLost):
            write()
    first.release()  # the loser's release must not free the winner's lease
    assert second.held() and folder.status() == "running"
    second.release()
    assert folder.status() == "new"


def test_the_heartbeat_beats_by_itself(folder: RunFolder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    held = folder.acquire("test")
    assert held
    path = folder.path / "lease.json"
    os.utime(path, (1, 1))
    deadline = time.time() + 10
    while path.stat().st_mtime < 2 and time.time() < deadline:
        time.sleep(0.02)
    assert path.stat().st_mtime > 2
    held.release()


HOLDER = """
import sys, time
from harness.records.folder import RunFolder
assert RunFolder(sys.argv[1]).acquire("child")
print("held", flush=True)
time.sleep(60)
"""


def test_a_killed_holder_frees_its_run_at_once(folder: RunFolder):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder.path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout and child.stdout.readline() == "held\n"
    assert folder.status() == "running" and folder.acquire("test") is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert folder.status() == "new"
    taken = folder.acquire("test")
    assert taken and taken.held()
    taken.release()


def _race(path: Path, start, wins) -> None:
    start.wait()
    if RunFolder(path).acquire("racer"):
        wins.put(os.getpid())
    time.sleep(0.5)


def test_of_many_takers_of_a_stale_lease_one_wins(folder: RunFolder):
    context = multiprocessing.get_context("fork")
    for _ in range(2):  # a third attempt that ends without a word would be the last one
        files.write_json(
            folder.path / "lease.json", {"token": "x", "machine": lease.machine(), "pid": 1, "start": "no"}
        )
        start, wins = context.Event(), context.Queue()
        racers = [context.Process(target=_race, args=(folder.path, start, wins)) for _ in range(8)]
        for racer in racers:
            racer.start()
        start.set()
        for racer in racers:
            racer.join()
        assert wins.get(timeout=5) and wins.empty()


def _die(folder: RunFolder, step: int = 0, **told) -> None:
    """As if a process had taken the run at that step, and was then killed."""
    body = {"token": "x", "machine": lease.machine(), "pid": 1, "start": "no", "step": step, **told}
    files.write_json(folder.path / "lease.json", body)


def test_three_deaths_without_a_checkpoint_are_the_end_of_a_run(folder: RunFolder):
    for deaths in (1, 2):
        _die(folder, node="n07", job="12_3")
        assert folder.status() == "new" and len(folder.deaths()) == deaths
        held = folder.acquire("test")
        assert held
        held.release()
    _die(folder, node="n07", job="12_3")
    failure = folder.failure()
    assert folder.status() == "failed" and folder.acquire("test") is None
    assert (
        failure and "3 times without a word" in failure["reason"] and "n07 in job 12_3" in failure["reason"]
    )

    assert folder.forget_failure() and folder.status() == "new" and folder.failure() is None
    held = folder.acquire("test")
    assert held and not folder.deaths()[:-1]
    held.release()


def test_a_checkpoint_is_progress_and_starts_the_count_of_deaths_anew(folder: RunFolder):
    for step in range(5):
        _die(folder, step)
        folder.record_death(why="killed")
        assert folder.status() != "failed"
        folder.save_checkpoint({"a": torch.ones(1)}, step + 1)
        assert folder.deaths() == [] and folder.checkpoint_step() == step + 1
    for _ in range(3):  # as by tasks that ended before they could take the run
        folder.record_death(why="no such module")
    failure = folder.failure()
    assert folder.status() == "failed" and failure and "no such module" in failure["reason"]


def test_a_restarted_slurm_job_takes_over_from_its_older_copy_at_once(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    older = folder.acquire("job")
    assert older and folder.status() == "running"
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert RunFolder(folder.path).acquire("another job") is None
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    younger_view = RunFolder(folder.path)
    younger = younger_view.acquire("job")
    assert younger and not older.held()
    with pytest.raises(LeaseLost):
        folder.append_metrics([{"step": 1}])
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    assert folder.acquire("job") is None  # the older copy never takes it back
    younger_view.append_metrics([{"step": 1}])
    younger.release()


def test_a_cancelled_run_leaves_its_holder_and_waits(folder: RunFolder):
    held = folder.acquire("test")
    assert held and folder.cancel() and not folder.cancel()
    assert folder.status() == "cancelled" and RunFolder(folder.path).acquire("another") is None
    with pytest.raises(LeaseLost):
        folder.append_metrics([{"step": 1}])
    held.release()
    folder.uncancel()
    assert folder.status() == "new" and not folder.deaths()


WRITER = """
import sys
import torch
from harness.records.folder import RunFolder
folder = RunFolder(sys.argv[1])
assert folder.acquire("writer")
print("go", flush=True)
step = 0
while True:
    step += 1
    folder.append_metrics([{"step": step, "time": 0.0}])
    folder.save_checkpoint({"a": torch.full((50_000,), float(step))}, step)
    folder.save_state(step=step, total=0)
"""


def test_a_kill_at_any_moment_leaves_whole_files(folder: RunFolder):
    random = np.random.default_rng(0)
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder.path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout and child.stdout.readline() == "go\n"
        time.sleep(float(random.uniform(0.02, 0.3)))
        child.kill()
        child.wait()
        loaded = folder.load_checkpoint()
        if loaded:
            tensors, step = loaded
            assert (tensors["a"] == step).all()
            assert [row["step"] for row in folder.metrics()].count(step) >= 1
        assert json.loads((folder.path / "spec.json").read_text())
    held = folder.acquire("test")
    assert held and not list(folder.path.glob(".*.tmp"))
    held.release()


def test_a_full_disk_is_one_clear_line(folder: RunFolder, monkeypatch: pytest.MonkeyPatch):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    full = open("/dev/full", "ab")  # noqa: SIM115 - it is what is being written to that closes it
    monkeypatch.setattr(folder_module, "open_to_append", lambda path: full)
    with pytest.raises(files.DiskFull, match="no space left") as caught:
        folder.append_metrics([{"step": 1}])
    assert isinstance(caught.value, UserError) and "\n" not in str(caught.value)


@pytest.mark.parametrize("skew", [-600.0, 600.0])
def test_a_clock_that_is_minutes_off_sees_the_same_holder(
    skew: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder.create(tmp_path, RunSpec(method="tp_sds", prompt="a red bus", seed=0))
    held = folder.acquire("test")
    assert held
    real = time.time
    monkeypatch.setattr(lease.time, "time", lambda: real() + skew)
    monkeypatch.setattr(lease, "_skews", {})
    assert folder.status() == "running" and abs((lease.holder(folder.path) or {})["age"]) < 60
    stale = real() - 2 * lease.STALE_SECONDS
    os.utime(folder.path / "lease.json", (stale, stale))
    assert lease.holder(folder.path) is None
    held._over.set()


def test_a_picture_is_measured_before_it_is_decoded(tmp_path: Path) -> None:
    Image.new("1", (12_000, 12_000)).save(tmp_path / "large.png")
    with pytest.raises(ImageTooLarge, match="12000 × 12000"):
        tiles((tmp_path / "large.png").read_bytes())
    with pytest.raises(ValueError):
        tiles(b"x" * 100)
