"""Who may write to a run: a lease with a token, kept alive by a heartbeat, fenced by a file lock.

The holder's writes take the same lock as a taker, and check the token under it. A process that was stopped so
long that it lost its lease therefore cannot write another byte once somebody else has taken the run. The same
fence parts two copies of one Slurm job, of a node that lost its daemon but not its processes: the copy that
Slurm started later takes over at once.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from harness.records.files import write_json
from harness.records.reader import RecordError, read_record
from harness.records.schema import FORMS, LEASE, LOCK, RECORD_BYTES

BEAT_SECONDS = 20.0
STALE_SECONDS = 120.0
SKEW_SECONDS = 60.0  # how long a look at the file server's clock is good for


class LeaseLost(Exception):
    """Another process took the run over; the loser must not touch it again."""


@cache
def machine() -> str:
    """Names the process table that a pid belongs to: host, boot and pid namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        boot, namespace = "", ""
    return "/".join((socket.gethostname(), boot, namespace))


def process_start(pid: int) -> str | None:
    """A mark that tells two processes of one pid apart; None where no such process lives."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return None if os.path.isdir("/proc/self") else _alive_without_proc(pid)
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]  # a zombie holds nothing any more


def _alive_without_proc(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""


def slurm_job() -> dict[str, Any]:
    """The Slurm task that this process runs in, {job, restart, node}; {} outside of Slurm.

    `job` is as squeue prints it (`123_4` in an array); `restart` counts how often Slurm requeued it.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return {}
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return {
        "job": f"{array}_{task}" if array and task else job,
        "restart": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        "node": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
    }


@contextmanager
def locked(folder: Path) -> Iterator[float]:
    """Hold the folder's file lock; yields the file server's time, which all machines share.

    Raises RecordError where the lock's file is something else.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(folder / LOCK, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise RecordError(f"{folder / LOCK}: is no file") from None
        raise
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.utime(descriptor)
        yield os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)


def read_lease(folder: Path) -> dict[str, Any] | None:
    """What lease.json says; None where there is none that can be read."""
    try:
        return read_record(folder, LEASE, FORMS[LEASE], RECORD_BYTES)
    except RecordError:
        return None


_skews: dict[int, tuple[float, float]] = {}  # of file systems: when it was looked at, seconds


def server_time(folder: Path) -> float:
    """The file server's time, by which heartbeats are stamped: clocks of nodes may be minutes apart.

    Asked once a minute through the folder's lock file; the local clock where that may not be touched.
    """
    path = folder / LOCK
    try:
        device = os.stat(folder).st_dev
        looked, skew = _skews.get(device, (-SKEW_SECONDS, 0.0))
        if time.monotonic() - looked >= SKEW_SECONDS:
            os.utime(path, follow_symlinks=False)
            skew = os.stat(path, follow_symlinks=False).st_mtime - time.time()
            _skews[device] = (time.monotonic(), skew)
    except OSError:
        return time.time()
    return time.time() + skew


def holder(folder: Path, now: float | None = None) -> dict[str, Any] | None:
    """The live lease on a run folder as {token, owner, host, pid, …, age}, or None where it is free.

    A lease is dead when its process is gone (same machine), when its heartbeat is older than STALE_SECONDS,
    and when it is of an earlier start of the Slurm job that asks.
    """
    try:
        # NFS looks again when a folder is opened: a name that was not there before is else not seen for up to
        # a minute, nor is a beat.
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
        beat = os.lstat(folder / LEASE).st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None
    age = (server_time(folder) if now is None else now) - beat
    if age > STALE_SECONDS:
        return None
    lease = read_lease(folder) or {}
    if lease.get("machine") == machine() and process_start(lease.get("pid", 0)) != lease.get("start"):
        return None
    asking = slurm_job()
    if asking and asking["job"] == lease.get("job") and lease.get("restart", 0) < asking["restart"]:
        return None
    return lease | {"age": age}


class Lease:
    """The right to write to one run folder, from `take` until `release`, a death, or missed heartbeats."""

    def __init__(self, folder: Path, token: str):
        self.folder = folder
        self.token = token
        self._over = threading.Event()
        threading.Thread(target=self._keep_beating, name=f"lease {folder.name}", daemon=True).start()

    @classmethod
    def take(cls, folder: Path, owner: str, step: int = 0) -> Lease:
        """A new lease on a run at `step`. The caller holds the folder's lock, and saw no other."""
        token = secrets.token_hex(8)
        pid = os.getpid()
        body = {
            "token": token,
            "owner": owner,
            "machine": machine(),
            "host": socket.gethostname(),
            "pid": pid,
            "start": process_start(pid),
            "taken": time.time(),
            "step": step,
            **slurm_job(),
        }
        write_json(folder / LEASE, body, durable=False)
        return cls(folder, token)

    def held(self) -> bool:
        """Whether the lease is still ours, by the file."""
        lease = None if self._over.is_set() else read_lease(self.folder)
        return lease is not None and lease.get("token") == self.token

    def beat(self) -> bool:
        """Say that the holder lives; False when the lease is lost."""
        if self._over.is_set():
            return False
        with locked(self.folder):
            if not self.held():
                return False
            os.utime(self.folder / LEASE, follow_symlinks=False)
        return True

    @contextmanager
    def fence(self) -> Iterator[None]:
        """Write inside: nobody can take the run meanwhile. Raises LeaseLost where somebody already has."""
        with locked(self.folder):
            if not self.held():
                raise LeaseLost(self.folder.name)
            yield

    def release(self) -> None:
        """Give the run free; a lease that was lost is left to its new holder."""
        if self._over.is_set():
            return
        with locked(self.folder):
            if self.held():
                (self.folder / LEASE).unlink()
        self._over.set()

    def _keep_beating(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with suppress(OSError):  # a file server that hiccups gets its next beat in time
                if not self.beat():
                    return
