"""The mirror and `harness sync` against a server that keeps what the real client sends, and that fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.cli import app
from harness.config import Config, UserError
from harness.distill.events import EVENT, Advance, Refused, Returned, Setup, Stepped
from harness.records import wandb_sync
from harness.records.folder import RunFolder, run_folders
from harness.records.identity import RunSpec
from harness.records.mirror import Place
from harness.records.tracking import Tracker, leave
from tests import tinyruns
from tests.wandb_server import Server, assert_whole, environment, history, server, serving

__all__ = ["server"]  # a fixture

STEPS = 60


def ended(root: Path, seed: int, end: str = "done") -> RunFolder:
    """A run that ended: a row every tenth step, views every thirtieth, a metric that is null once."""
    spec = RunSpec(method="tp_sds", prompt="a red bus", seed=seed, config=Config(steps=STEPS))
    folder = RunFolder.create(root, spec)
    folder.save_env({"prior": {"tag": "toy-sd", "weights_hash": "f" * 64, "is_toy": True}})
    for step in range(10, STEPS + 1, 10):
        row = {"step": step, "time": step / 8, "loss": seed + step / 7, "odd": None if step == 20 else 1.0}
        folder.append_metrics([row])
        if step % 30 == 0:
            folder.save_views(step, np.full((3, 8, 8, 3), step + seed, np.uint8))
    if end == "done":
        folder.finish({"steps": STEPS, "time": 7.5})
    elif end == "failed":
        folder.fail("diverged", 55)
    return folder


def sync(root: Path, *more: Any) -> int:
    """`harness sync` in this process; its exit code."""
    return app(["sync", str(root), *map(str, more)], standalone_mode=False)


def test_a_pack_online_is_whole_at_the_server(server: Server, tiny_prior: Path, tmp_path: Path) -> None:
    ids = tinyruns.create(tmp_path / "runs", tiny_prior, runs=3)
    tinyruns.run(tmp_path / "runs", ids, wandb="online", study="study", sweep="runs")
    leave()
    for folder in run_folders(tmp_path / "runs"):
        assert_whole(server, folder)
        stored = server.runs[folder.id]
        assert (stored.group, stored.job_type) == ("runs", "tp_sds") and len(stored.lines) == 6
        config = {name: item["value"] for name, item in stored.config.items()}
        assert config["seed"] == folder.spec().seed and config["config"]["steps"] == tinyruns.STEPS
    sent = list(server.sent)
    assert sync(tmp_path / "runs", "--study", "study") == 0 and server.sent == sent


def worker(root: Path, ids: list[str], **changes: Any) -> subprocess.Popen[str]:
    """The engine's own worker process, given one pack; it is past its first steps."""
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.sweep.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdin and process.stdout
    setup = Setup(root=root, execution=tinyruns.execution(threads=1, **changes))
    for message in (setup, Advance(runs=ids)):
        process.stdin.write(message.model_dump_json() + "\n")
        process.stdin.flush()
    steps = 0
    for line in process.stdout:
        event = EVENT.validate_json(line)
        assert not isinstance(event, Returned | Refused)
        steps += isinstance(event, Stepped)
        if steps > 5:
            break
    return process


@pytest.mark.journey
@pytest.mark.parametrize("kills", [1, pytest.param(4, marks=pytest.mark.long)])
def test_killed_and_resumed_is_whole_after_all(
    kills: int, server: Server, tiny_prior: Path, tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    ids = tinyruns.create(root, tiny_prior, runs=2, steps=20 + 20 * kills)
    mirror = {"wandb": "online", "study": "study", "sweep": "runs"}
    process = worker(root, ids, **mirror)
    process.communicate(json.dumps({"do": "stop"}) + "\n")
    assert process.returncode == 0
    for run in ids:  # stopped at a checkpoint: the server has all up to it
        assert history(server.runs[run]) == RunFolder(root / run).metrics()
    for _ in range(kills):
        process = worker(root, ids, **mirror)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        for run in ids:  # what came to the server is final, whatever the killed worker wrote after it
            folder = RunFolder(root / run)
            folder.truncate_metrics(folder.checkpoint_step())
            rows = history(server.runs[run])
            assert rows and rows == folder.metrics()[: len(rows)]
    tinyruns.run(root, ids, threads=1, **mirror)
    leave()
    assert sync(root, "--study", "study") == 0
    for run in ids:
        assert RunFolder(root / run).status() == "done"
        assert_whole(server, RunFolder(root / run))


def test_sync_uploads_each_run_once(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [ended(tmp_path / "runs", 0), ended(tmp_path / "runs", 1, "failed")]
    tracker = Tracker(
        folders[0], folders[0].spec(), "offline", sweep="runs"
    )  # leaves a file, and the server without a run
    tracker.finish()
    leave()
    assert sync(tmp_path / "runs", "bus-s1") == 0 and set(server.runs) == {folders[1].id}
    assert sync(tmp_path / "runs") == 0
    assert "2 runs in W&B project dreamtime: 1 uploaded, 1 were whole" in capsys.readouterr().out
    for folder in folders:
        assert_whole(server, folder)
        assert server.runs[folder.id].group == "runs"
    assert len([line for line in server.sent if "@" in line]) == 2 * len(folders[0].metrics())

    asked, sent = dict(server.asked), list(server.sent)
    assert sync(tmp_path / "runs") == 0
    assert "0 uploaded, 2 were whole" in capsys.readouterr().out
    assert dict(server.asked) == asked, "the notes say that all is there"
    for folder in folders:
        (folder.path / wandb_sync.NOTE).unlink()
    assert sync(tmp_path / "runs") == 0
    assert "0 uploaded, 2 were whole" in capsys.readouterr().out and server.sent == sent
    assert sync(tmp_path / "runs", "--study", "another") == 0
    assert {project for project, _ in server.stored} == {"dreamtime", "another"}


def test_an_unfinished_run_is_synced_as_far_as_its_checkpoint(server: Server, tmp_path: Path) -> None:
    import torch

    folder = ended(tmp_path / "runs", 0, "not yet")
    begun = ended(tmp_path / "runs", 1, "not yet")
    folder.save_checkpoint({"params.x": torch.zeros(1)}, 35)
    assert sync(tmp_path / "runs") == 0
    assert [row["_step"] for row in server.runs[folder.id].rows] == [10, 20, 30]
    assert server.runs[folder.id].summary["status"] == "running" and begun.id not in server.runs
    folder.finish({"steps": STEPS})
    assert sync(tmp_path / "runs") == 0
    assert_whole(server, folder)


def test_a_picture_that_never_arrived_is_sent_again(server: Server, tmp_path: Path) -> None:
    folder = ended(tmp_path / "runs", 0)
    assert sync(tmp_path / "runs") == 0
    (folder.path / wandb_sync.NOTE).unlink()
    stored = server.runs[folder.id]
    pictures = [name for name in stored.files if name.startswith("media/images/")]
    del stored.files[pictures[0]]
    stored.files[pictures[1]] = b""  # announced and never sent
    before = len(server.sent)
    assert sync(tmp_path / "runs") == 0
    assert_whole(server, folder)
    assert not [line for line in server.sent[before:] if "@" in line], "no row is told twice"


def test_a_busy_server_is_waited_for(server: Server, tmp_path: Path) -> None:
    folder = ended(tmp_path / "runs", 0)
    server.stumble = {"Run": [429], "file_stream": [429], "storage": [500]}
    assert sync(tmp_path / "runs") == 0
    assert not any(server.stumble.values())
    assert_whole(server, folder)


def test_one_failing_run_does_not_stop_the_others(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [ended(tmp_path / "runs", seed) for seed in range(3)]
    other = ended(tmp_path / "before", 1)
    server.add(other, "runs")
    server.stored["dreamtime", other.id] = server.stored["project", other.id]
    server.stored["dreamtime", other.id].lines.pop(2)  # no history of ours
    assert sync(tmp_path / "runs") == 1
    told = capsys.readouterr()
    assert f"left: {other.id}: W&B has another history under entity/dreamtime/{other.id}" in told.err
    assert "2 uploaded, 0 were whole, 1 left" in told.out
    for folder in (folders[0], folders[2]):
        assert_whole(server, folder)


def test_what_is_wrong_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    with pytest.raises(UserError, match="no folder"):
        sync(tmp_path / "nothing")
    folder = ended(tmp_path / "runs", 0)
    with pytest.raises(UserError, match=r"no run in .* fits 'dog'"):
        sync(tmp_path / "runs", "dog")
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(UserError, match="set WANDB_API_KEY"):
        sync(tmp_path / "runs")
    assert not (folder.path / wandb_sync.NOTE).exists() and not server.runs


CHILD = """
import sys, time
from pathlib import Path
from harness.records import mirror, tracking
from harness.records.folder import run_folders
mirror.INIT_SECONDS = mirror.FINISH_SECONDS = tracking.LEAVE_SECONDS = 3
folders = run_folders(Path(sys.argv[1]))
trackers = [tracking.Tracker(f, f.spec(), "online", study="dreamtime", sweep="runs") for f in folders]
if sys.argv[2] == "open":
    while any(tracker._mirrored.followed is None for tracker in trackers):
        time.sleep(0.02)
print("ready", flush=True)
sys.stdin.readline()
slowest = 0.0
for step in range(70, 170, 10):
    for folder, tracker in zip(folders, trackers):
        began = time.monotonic()
        tracker.log(step, {"loss": step / 7})
        tracker.settle(step)
        slowest = max(slowest, time.monotonic() - began)
    time.sleep(0.01)
for folder, tracker in zip(folders, trackers):
    folder.finish({"steps": 160})
    tracker.finish()
print(slowest, flush=True)
"""


@pytest.mark.parametrize("fault", ["silent from the start", "silent", 429])
def test_a_server_that_fails_keeps_nobody(fault: int | str, tmp_path: Path) -> None:
    folders = [ended(tmp_path / "runs", seed, "not yet") for seed in range(3)]
    with serving() as server:
        variables = os.environ | environment(server, tmp_path)
        when = "never opened" if fault == "silent from the start" else "open"
        with server.silent() if when == "never opened" else server.answering():
            child = subprocess.Popen(
                [sys.executable, "-c", CHILD, str(tmp_path / "runs"), when],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=variables,
            )
            assert child.stdout and child.stdout.readline() == "ready\n"
            with server.silent() if isinstance(fault, str) else server.answering(fault):
                began = time.monotonic()
                out, _ = child.communicate("go\n")
                spent = time.monotonic() - began
        assert child.returncode == 0
        assert float(out) < 1.0, "logging waits for nobody"
        assert spent < 30, "at most INIT, LEAVE and FINISH_SECONDS, all 3 here"
        for folder in folders:
            assert [row["step"] for row in folder.metrics()] == list(range(10, 170, 10))
            assert "mirror stopped (" in (folder.path / "log.txt").read_text()
            assert f"`harness sync {tmp_path / 'runs'}`" in (folder.path / "log.txt").read_text()
        again = [sys.executable, "-m", "harness.cli", "sync", str(tmp_path / "runs")]
        assert subprocess.run(again, env=variables).returncode == 0
        for folder in folders:
            assert_whole(server, folder)


def test_runs_stay_in_the_project_that_the_sweep_was_given(
    server: Server, tiny_prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving = {
        **dict.fromkeys(("PROJECT", "RUN_ID", "NAME", "RUN_GROUP", "JOB_TYPE", "TAGS", "NOTES"), "elsewhere"),
        "DIR": str(tmp_path / "elsewhere"),
        "RESUME": "must",
        "SWEEP_ID": "abcdefgh",
    }
    for name, value in moving.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    root = tmp_path / "runs"
    ids = tinyruns.create(root, tiny_prior, runs=2)
    tinyruns.run(root, ids[:1], wandb="online", study="foo", sweep="the sweep")
    leave()
    tinyruns.run(root, ids[1:], wandb="disabled", study="foo", sweep="the sweep")
    moved = tmp_path / "moved"
    root.rename(moved)
    assert sync(moved) == 0
    assert sorted(server.stored) == [("foo", run) for run in sorted(ids)]
    for folder in run_folders(moved):
        assert_whole(server, folder)
        stored = server.runs[folder.id]
        assert (stored.group, stored.job_type, "elsewhere" in stored.tags) == ("the sweep", "tp_sds", False)
    assert not (tmp_path / "elsewhere").exists()


def test_a_place_in_wandb_is_one_for_all_runs_of_a_folder(tmp_path: Path) -> None:
    assert Place.of(tmp_path) == Place("dreamtime", tmp_path.name)
    assert Place("foo", "bar").keep(tmp_path) == Place("other", "x").keep(tmp_path) == Place("foo", "bar")
    assert Place.to_sweep(tmp_path, None) == Place.to_sweep(tmp_path, "foo") == Place("foo", "bar")
    assert Place.of(tmp_path, "copy", "group") == Place("copy", "group")
    with pytest.raises(UserError, match="in W&B project foo; leave --study out"):
        Place.to_sweep(tmp_path, "other")
    for name in ("a/b", "a:b", "50%", "", "  ", "x" * 129, "a\nb"):
        with pytest.raises(UserError, match="W&B takes no project"):
            Place.to_sweep(tmp_path / "new", name)
        with pytest.raises(UserError, match="W&B takes no project"):
            app(["sweep", "prompts/smoke.txt", "--study", name, "--out", str(tmp_path / "new")],
                standalone_mode=False)  # fmt: skip
    assert not (tmp_path / "new").exists()
