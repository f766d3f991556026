"""What `harness doctor RUNS` tries of a file system: what holds is said, what is broken is told."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import doctor
from harness.records import probe as module
from harness.records.probe import TRIALS, mount_of, probe


def broken(place: Path) -> dict[str, str]:
    return {finding.name: finding.broken for finding in probe(place) if finding.broken}


def test_a_local_file_system_keeps_its_promises_and_nothing_is_left(tmp_path: Path) -> None:
    found = list(probe(tmp_path))
    assert [finding.name for finding in found] == ["kind", *TRIALS]
    assert all(finding.text and not finding.broken for finding in found), found
    assert list(tmp_path.iterdir()) == []


def _utime(path: Any, times: Any = None, **options: Any) -> None:
    real_utime(path, times if times is not None else (time.time() + 600, time.time() + 600), **options)


def _open_not_once(path: Any, flags: int, *rest: Any, **options: Any) -> int:
    return real_open(path, flags & ~os.O_EXCL, *rest, **options)


def _refuse(*_: Any, **__: Any) -> None:
    raise OSError(22, "Invalid argument")


def _copy(source: Any, target: Any) -> None:
    """A rename that writes into the old file, as some object stores have it."""
    Path(target).write_bytes(Path(source).read_bytes())
    os.unlink(source)


real_utime, real_open = os.utime, os.open
MAKE_TWICE = module._MAKE.replace("os.O_CREAT | os.O_EXCL", "os.O_CREAT")


@pytest.mark.parametrize(
    ("name", "target", "attribute", "value", "says"),
    [
        ("locks", fcntl, "flock", lambda *_: None, "two processes hold one lock"),
        ("locks", module, "_HOLD", "import sys; sys.exit(1)", "flock fails"),
        ("rename", os, "replace", _copy, "old file"),
        ("fsync", os, "fsync", _refuse, "Invalid argument"),
        ("new files", module, "_MAKE", MAKE_TWICE, "200 were new"),
        ("clock", os, "utime", _utime, "600.0 s ahead of this machine's: set both by NTP"),
        ("clock", os, "utime", lambda path, times=None, **_: real_utime(path, (0, 0)), "does not change"),
    ],
)
def test_a_promise_that_is_broken_is_told(
    name: str, target: Any, attribute: str, value: Callable | str, says: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(target, attribute, value)
    found = broken(tmp_path)
    assert says in found[name] and set(found) - {name} <= {"rename"}, found


def test_a_lock_that_outlives_its_holder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_lock", lambda _: False)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.2)
    assert "still held" in broken(tmp_path)["locks"]


def test_mounts_say_whether_locks_reach_other_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kind(line: str) -> str:
        monkeypatch.setattr(module, "mount_of", lambda _: tuple(line.split()))
        finding = module._mount(tmp_path)
        return finding.broken or f"ok {finding.text}"

    assert "local_lock=all" in kind("nfs rw,vers=3,local_lock=all") and kind("nfs4 rw").startswith("ok nfs4")
    assert "without flock" in kind("lustre rw,localflock") and kind("lustre rw,flock").startswith("ok")
    assert "themselves" in kind("fuse.sshfs rw") and "this machine alone" in kind("ext4 rw")


def test_the_mount_of_a_folder_is_the_innermost(tmp_path: Path) -> None:
    escaped = str(tmp_path / "é b").replace(" ", "\\040")
    (tmp_path / "é b").mkdir()
    mounts = f"/dev/a / ext4 rw 0 0\nserver:/x {escaped} nfs4 rw,vers=4.2 0 0\n"
    assert mount_of(tmp_path / "é b", mounts) == ("nfs4", "rw,vers=4.2")
    assert mount_of(tmp_path, mounts) == ("ext4", "rw")


def test_the_doctor_has_a_line_for_each(tmp_path: Path) -> None:
    checks = list(doctor.file_system(tmp_path / "not" / "yet"))
    assert [check.name for check in checks] == ["files kind", *(f"files {name}" for name in TRIALS)]
    assert all(check.status == "ok" for check in checks) and list(tmp_path.iterdir()) == []


def test_a_folder_that_may_not_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.tempfile, "mkdtemp", _refuse)
    assert "Invalid argument" in broken(tmp_path)["writing"]
