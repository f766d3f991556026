"""What lies in a folder of runs and belongs to no run: only that goes, and only to the trash."""

import hashlib
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from harness.cli.runs import gc as command
from harness.config import UserError
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec, SuiteRef
from harness.sweep import gc
from harness.sweep.status import sweep_status

SUITE = SuiteRef(name="s", sha256="a" * 64, size=2)
OLD = time.time() - 2 * gc.AGE_SECONDS


def aged(root: Path) -> None:
    """As if nothing had been touched for hours; leases keep their beat."""
    for path in [*root.rglob("*"), root]:
        if path.name != "lease.json":
            os.utime(path, (OLD, OLD), follow_symlinks=False)


def content(root: Path) -> dict[str, str]:
    """Every file and link below, by what it holds."""
    found = {}
    for path in sorted(root.rglob("*")):
        data = (
            os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        )
        found[path.relative_to(root).as_posix()] = hashlib.sha256(data).hexdigest()
    return found


def waste(root: Path, *busy: Path) -> set[str]:
    return {item.path.relative_to(root).as_posix() for item in gc.find_waste(root, busy).waste}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    for seed in range(3):
        RunFolder.create(root, RunSpec(method="tp_sds", prompt="a red bus", seed=seed, suite=SUITE))
    (root / "suites").mkdir()
    (root / "suites" / f"{'a' * 12}.json").write_text("{}")
    return root


def runs(root: Path) -> list[RunFolder]:
    return [RunFolder(path.parent) for path in sorted(root.glob("*/spec.json"))]


def test_waste_is_what_no_spec_refers_to(root: Path):
    run, held, _ = runs(root)
    (root / "suites" / f"{'b' * 12}.json").write_text("{}")
    (root / "suites" / "mine.json").write_text("{}")
    for name in (f"offline-run-20260101_000000-{run.id}", "offline-run-20260101_000000-gone", "latest-run"):
        (root / "wandb" / name).mkdir(parents=True)
    for launch, named in (("one", run.id), ("two", "gone"), ("torn", None)):
        (root / "slurm" / launch).mkdir(parents=True)
        text = json.dumps({"arrays": [{"tasks": [[named]]}]} if named else {})
        (root / "slurm" / launch / "launch.json").write_text(text)
    (root / "tp_sds-a-red-bus-s7-0123abcd").mkdir()
    building = root / ".tp_sds-a-red-bus-s8-0123abcd.7.0.tmp"
    building.mkdir()
    (building / "spec.json").write_text("{")
    (root / "notes").mkdir()
    for name in (".state.json.1.0.tmp", ".mine.tmp", "state.json.1.0.tmp"):
        (run.path / name).write_bytes(b"12345")
    lease = held.acquire("test")
    assert waste(root) == set()  # all of it is young
    aged(root)
    (held.path / ".state.json.1.0.tmp").write_bytes(b"being written")

    found = gc.find_waste(root)
    assert waste(root) == {
        ".tp_sds-a-red-bus-s8-0123abcd.7.0.tmp",
        "tp_sds-a-red-bus-s7-0123abcd",
        f"{run.id}/.state.json.1.0.tmp",
        "suites/bbbbbbbbbbbb.json",
        "wandb/offline-run-20260101_000000-gone",
        "slurm/two",
    }
    assert found.kept == ["slurm/torn: its launch.json cannot be read"]
    assert {item.path.name: item.size for item in found.waste}[".state.json.1.0.tmp"] == 5
    assert "slurm/two" not in waste(root, (root / "slurm" / "two").resolve())
    before = content(root)
    moved, trash = gc.discard(root, found.waste)
    assert trash and trash.parent == root / "trash" and len(moved) == 6
    assert waste(root) == set() and len(runs(root)) == 3
    after = {name.removeprefix(f"trash/{trash.name}/"): digest for name, digest in content(root).items()}
    assert before.items() <= after.items()  # all of it is still there, in the trash
    assert lease and lease.held()
    lease.release()

    (root / "trash" / "mine").mkdir()
    gc.purge(gc.trashed(root))
    assert [path.name for path in (root / "trash").iterdir()] == ["mine"]


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "binary", "link", "folder"])
def test_what_holds_anything_of_a_run_is_kept_whatever_became_of_its_spec(root: Path, damage: str):
    run = runs(root)[0]
    run.save_views(4, np.zeros((2, 8, 8, 3), np.uint8))
    run.finish({"steps": 4})
    for other in runs(root)[1:]:
        (other.path / "spec.json").unlink()
        other.path.rmdir()
    spec = run.path / "spec.json"
    text = spec.read_bytes()
    spec.unlink()
    if damage == "folder":
        spec.mkdir()
    elif damage == "link":
        spec.symlink_to(root / "suites" / f"{'a' * 12}.json")
    elif damage != "missing":
        spec.write_bytes({"empty": b"", "cut": text[:40], "binary": os.urandom(64)}[damage])
    (run.path / ".state.json.1.0.tmp").write_bytes(b"")
    aged(root)
    before = content(root)
    found = gc.find_waste(root)
    assert found.waste == []  # its suite, too, is one that it may need
    assert run.id in found.kept[0] and "spec.json" in found.kept[0]
    assert content(root) == before
    (row,) = sweep_status(root).methods
    assert row.damaged == 1


def test_no_link_is_followed_or_removed(root: Path, tmp_path: Path):
    outside = tmp_path / "outside"
    for name in ("tree/sub", "suites", "wandb/run-20260101_000000-gone", "slurm/two", "run/views"):
        (outside / name).mkdir(parents=True)
        (outside / name / ".state.json.1.0.tmp").write_text("not yours")
    (outside / "suites" / f"{'c' * 12}.json").write_text("{}")
    (outside / "slurm" / "two" / "launch.json").write_text(json.dumps({"arrays": []}))
    (outside / "tp_sds-a-red-bus-s5-0123abcd").mkdir()
    (root / "suites" / f"{'d' * 12}.json").symlink_to(outside / "suites" / f"{'c' * 12}.json")
    (root / "wandb").symlink_to(outside / "wandb")
    (root / "slurm").symlink_to(outside / "slurm")
    (root / "tp_sds-a-red-bus-s5-0123abcd").symlink_to(outside / "tp_sds-a-red-bus-s5-0123abcd")
    (root / "tp_sds-a-red-bus-s6-0123abcd").symlink_to(outside / "run")
    run = runs(root)[0]
    (run.path / "views").symlink_to(outside / "run" / "views")
    (run.path / "params").mkdir()
    (run.path / "params" / ".state.json.1.0.tmp").symlink_to(outside / "suites" / f"{'c' * 12}.json")
    (run.path / ".state.json.2.0.tmp").mkdir()
    aged(outside)
    aged(root)
    before, there = content(outside), content(root)
    assert waste(root) == set()
    assert content(outside) == before and content(root) == there

    (root / "trash").symlink_to(outside / "tree")
    (root / "tp_sds-a-red-bus-s7-0123abcd").mkdir()
    os.utime(root / "tp_sds-a-red-bus-s7-0123abcd", (OLD, OLD))
    with pytest.raises(UserError, match="trash is no folder"):
        gc.discard(root, gc.find_waste(root).waste)
    assert gc.trashed(root) == [] and content(outside) == before


def test_it_says_what_goes_what_stays_and_why(root: Path, capsys: pytest.CaptureFixture[str]):
    failed, damaged, _ = runs(root)
    failed.fail("a mistake", 1)
    (damaged.path / "result.json").write_text("{")
    (root / "wandb" / "offline-run-20260101_000000-gone").mkdir(parents=True)
    (root / "wandb" / "offline-run-20260101_000000-gone" / "log").write_bytes(bytes(2500))
    aged(root)
    (root / "tp_sds-a-red-bus-s7-0123abcd").mkdir()

    def said(purge: bool = False) -> list[str]:
        command(root, yes=True, purge=purge)
        return capsys.readouterr().out.replace(str(root), "RUNS").splitlines()

    kept = [
        "kept: tp_sds-a-red-bus-s7-0123abcd: of no run, but changed within the hour: "
        "somebody may be at work there",
        "kept: all runs: 1 damaged, 1 failed, 1 not begun",
    ]
    lines = said()
    (trash,) = (root / "trash").iterdir()
    stamp = f"{trash.name[:4]}-{trash.name[4:6]}-{trash.name[6:8]} {trash.name[9:11]}:{trash.name[11:13]}"
    holds = "RUNS/trash holds 2.5 kB; `harness gc RUNS --purge` deletes that for good"
    assert lines[:2] == [
        "of no run:",
        "   2.5 kB  wandb/offline-run-20260101_000000-gone  (the W&B files of a run that is not here)",
    ]
    assert lines[2].startswith(f"kept: {damaged.id}: damaged: result.json") and lines[3:5] == kept
    assert lines[5:] == [f"moved 1 file or folder (2.5 kB) to RUNS/trash/{trash.name}", holds]
    assert said()[1:] == [*kept, "nothing to move away", holds]
    assert said(purge=True) == [
        "RUNS/trash holds",
        f"   2.5 kB  trash/{trash.name}  (moved there on {stamp}: wandb)",
        "deleted 1 file or folder (2.5 kB)",
    ]
    assert said(purge=True) == ["RUNS/trash holds nothing to delete"]


def test_a_root_that_is_a_link_is_looked_through(root: Path, tmp_path: Path):
    (root / "tp_sds-a-red-bus-s7-0123abcd").mkdir()
    aged(root)
    (tmp_path / "link").symlink_to(root)
    found = gc.find_waste(tmp_path / "link")
    assert [item.path for item in found.waste] == [root / "tp_sds-a-red-bus-s7-0123abcd"]
    moved, _ = gc.discard(tmp_path / "link", found.waste)
    assert len(moved) == 1 and waste(root) == set()


def test_what_has_become_a_run_since_it_was_listed_stays(root: Path):
    empty = root / "tp_sds-a-red-bus-s7-0123abcd"
    empty.mkdir()
    aged(root)
    found = gc.find_waste(root).waste
    assert len(found) == 1
    (empty / "spec.json").write_bytes((runs(root)[0].path / "spec.json").read_bytes())
    assert gc.discard(root, found) == ([], None) and empty.is_dir()


def test_a_sweep_that_begins_beside_it_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gc, "AGE_SECONDS", -10.0)  # whatever is there is old enough
    specs = [RunSpec(method="tp_sds", prompt="a red bus", seed=seed) for seed in range(300)]
    made: list[RunFolder] = []
    thread = threading.Thread(target=lambda: made.extend(RunFolder.create(tmp_path, s) for s in specs))
    thread.start()
    listed = []
    while thread.is_alive():
        listed += [item.why for item in gc.find_waste(tmp_path).waste]
    thread.join()
    assert gc.EMPTY not in listed
    assert len(made) == 300 and all(folder.look().spec for folder in made)
