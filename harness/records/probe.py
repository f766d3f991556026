"""Whether a file system keeps the promises that run folders rest on, tried in a folder that is removed."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.records.files import sync, write_bytes

PATIENCE_SECONDS = 30.0  # for a lock that the file server holds for a dead process
SKEW_ALLOWED = 5.0  # seconds
RACERS = 4

# Children that stand for other workers: one holds a lock until it is killed, one makes a file exactly once.
_HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "r+")
fcntl.flock(file, fcntl.LOCK_EX)
print(1, flush=True)
time.sleep(600)
"""
_MAKE = """
import os, sys
won = 0
for k in range(50):
    try:
        os.close(os.open(f"{sys.argv[1]}/once-{k}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        won += 1
    except FileExistsError:
        pass
print(won)
"""


@dataclass(frozen=True)
class Finding:
    """One promise: `broken` says how, or is empty; `text` is what was seen."""

    name: str
    text: str
    broken: str = ""


def probe(place: Path) -> Iterator[Finding]:
    """Every promise in turn, tried in a new folder in `place`."""
    yield _mount(place)
    try:
        folder = Path(tempfile.mkdtemp(prefix=".doctor-", dir=place))
    except OSError as error:
        yield Finding("writing", "", f"no folder can be made in {place}: {error.strerror}")
        return
    try:
        for name, trial in TRIALS.items():
            try:
                text, broken = trial(folder)
            except (OSError, subprocess.SubprocessError) as error:
                text, broken = "", str(error)
            yield Finding(name, text, broken)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


Seen = tuple[str, str]


def _locks(folder: Path) -> Seen:
    path = folder / "lock"
    path.touch()
    child = subprocess.Popen([sys.executable, "-c", _HOLD, path], stdout=subprocess.PIPE)
    with child, open(path, "r+b") as file:
        try:
            assert child.stdout
            if not child.stdout.readline():
                return "", "flock fails"
            if _lock(file.fileno()):
                return "", "two processes hold one lock: runs may be written twice"
        finally:
            child.send_signal(signal.SIGKILL)
        child.wait()
        waited = _until(lambda: _lock(file.fileno()))
        if waited is None:
            return "", f"the lock of a killed process is still held after {PATIENCE_SECONDS:g} s"
        return f"exclude other processes, and are free {waited:.1f} s after their holder is killed", ""


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _until(done: Callable[[], bool]) -> float | None:
    """Seconds until it was so; None where it was not in time."""
    started = time.monotonic()
    while not done():
        if time.monotonic() - started > PATIENCE_SECONDS:
            return None
        time.sleep(0.05)
    return time.monotonic() - started


def _rename(folder: Path) -> Seen:
    path = folder / "file"
    write_bytes(path, b"old")
    with open(path, "rb") as before:
        write_bytes(path, b"new")
        if path.read_bytes() != b"new" or os.listdir(folder).count("file") != 1:
            return "", "a file that was renamed over another is not there"
        if before.read() != b"old":
            return "", "who had opened the old file does not read it whole"
    return "a new file takes the place of an old one in one go", ""


def _fsync(folder: Path) -> Seen:
    started = time.monotonic()
    write_bytes(folder / "durable", b"x" * 65536)
    sync(folder)
    return f"files and folders, {(time.monotonic() - started) * 1e3:.0f} ms", ""


def _once(folder: Path) -> Seen:
    racers = [
        subprocess.Popen([sys.executable, "-c", _MAKE, folder], stdout=subprocess.PIPE) for _ in range(RACERS)
    ]
    made = sum(int(racer.communicate(timeout=60)[0] or 0) for racer in racers)
    if made != 50:
        return "", f"of 50 files that {RACERS} processes made with O_EXCL, {made} were new"
    return f"of {RACERS} processes that make a file (O_EXCL), one does", ""


def _clock(folder: Path) -> Seen:
    path = folder / "clock"
    path.touch()
    os.utime(path, (0, 0))
    os.utime(path)
    skew = path.stat().st_mtime - time.time()
    if skew < -1e9:  # it still says 1970
        return "", "the time of a file does not change when it is touched: heartbeats are not seen"
    text = f"its clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    return ("", f"{text}: set both by NTP") if abs(skew) > SKEW_ALLOWED else (text, "")


TRIALS: dict[str, Callable[[Path], Seen]] = {
    "locks": _locks,
    "rename": _rename,
    "fsync": _fsync,
    "new files": _once,
    "clock": _clock,
}


def _mount(place: Path) -> Finding:
    """What kind of file system it is, and what its mount says of locks between nodes."""
    kind, options = mount_of(place)
    own = set(options.split(","))
    text = f"{kind}: locks reach every node that mounts it"
    broken = ""
    if kind.startswith("nfs"):
        local = own & {"nolock", "local_lock=all", "local_lock=flock"}
        broken = (
            f"{kind} is mounted with {', '.join(sorted(local))}: no lock reaches another node"
            if local
            else ""
        )
    elif kind == "lustre":
        broken = "" if "flock" in own else "lustre is mounted without flock: no lock reaches another node"
    elif kind.startswith("fuse"):
        text = f"{kind}: whether locks reach other nodes is its own matter; many keep them to themselves"
    elif kind in ("ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "f2fs"):
        text = f"{kind}: of this machine alone, no sweep of several nodes"
    else:
        text = kind or "not known"
    return Finding("kind", text, broken)


def mount_of(place: Path, mounts: str | None = None) -> tuple[str, str]:
    """Type and options of the mount that holds `place`; "" where the system does not tell."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return "", ""
    found, longest = ("", ""), -1
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 4:
            continue
        octal = re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), os.fsencode(fields[1]))
        point = Path(os.fsdecode(octal))
        if place.resolve().is_relative_to(point) and len(point.parts) >= longest:
            found, longest = (fields[2], fields[3]), len(point.parts)
    return found
