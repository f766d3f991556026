"""A run's log, whatever it came from, and what tells one state of it from the next."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.records import reader
from harness.records.files import cache_home
from harness.records.reader import RecordError

SETTLED_SECONDS = 2.0  # a log that changed more recently is read anew, not trusted to its fingerprint
TAIL_BYTES = 4096

Problems = list[str]


@dataclass(frozen=True)
class LoggedRun:
    """One run as the table names it; `log` is its metrics.jsonl, or a file of the same form."""

    run: str
    method: str
    prompt: str
    seed: int
    state: str
    log: Path  # in a folder of its own


def user_cache() -> Path:
    """Where what came from W&B is kept."""
    return cache_home() / "wandb"


def fingerprint(path: Path) -> list[Any] | None:
    """What tells contents of a file apart without reading it: inode, size, mtime and ctime in ns, its tail.

    Any write changes ctime, which no program can set; the hash of the last 4 KiB is for file systems of
    coarse clocks. None, which equals nothing, for a missing file and for one changed so recently that another
    write could bear the same time.
    """
    try:
        stat = os.stat(path)
        tail = hashlib.sha256(reader.tail(path.parent, path.name, TAIL_BYTES)).hexdigest()[:16]
    except (OSError, RecordError):
        return None
    if time.time() - stat.st_ctime < SETTLED_SECONDS:
        return None
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, tail]
