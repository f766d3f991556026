"""How many threads a process computes with, and how they wait for each other. No torch at import."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager

# libgomp, which torch's and numba's threads on Linux share, and libomp (macOS, conda).
ASLEEP = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
CHOICES = (*ASLEEP, "GOMP_SPINCOUNT")


def wait_asleep(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let OpenMP's threads sleep while they wait, unless the user has chosen how they do (`CHOICES`).

    By default they spin for a core, and beside another busy process most of them spin for one that they do
    not have. OpenMP reads this when it is loaded, so every entry point that may load torch or numba begins
    with it; processes started later inherit it. Importing the package changes no environment.
    """
    if not any(name in environment for name in CHOICES):
        environment.update(ASLEEP)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(number: int) -> dict[str, str]:
    """What tells a process to be started how many threads it has, its libraries included."""
    return {"OMP_NUM_THREADS": str(number), "NUMBA_NUM_THREADS": str(number)}


@contextmanager
def torch_threads(number: int | None = None) -> Iterator[None]:
    """Inside, torch computes with `number` CPU threads (None: as many as it does); afterwards with as many as
    before, whoever changed that inside: numba's OpenMP layer sets torch's number along with its own."""
    if number is None and "torch" not in sys.modules:
        yield
        return
    import torch

    before = torch.get_num_threads()
    try:
        if number:
            torch.set_num_threads(number)
        yield
    finally:
        torch.set_num_threads(before)
