"""Fixtures shared by all tests."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.device import gpus
from harness.records.lease import locked
from harness.threads import environment, wait_asleep

# What is read when torch, numba and Triton are first imported, which other conftests do before any hook.
wait_asleep()
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ |= environment(1)
if not gpus():  # Triton's kernels are interpreted where no GPU can run them
    os.environ["TRITON_INTERPRET"] = "1"


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder that `make` fills, made by the first of pytest-xdist's processes that asks, for all of them.

    Nobody may write into it.
    """
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with locked(base):
        if not (base / name).exists():
            partial = factory.mktemp(name) / name  # a name of its own: a failed attempt leaves no half
            make(partial)
            partial.rename(base / name)
    return base / name


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder with small random weights: latents 4×8×8, images 32×32."""
    from harness.guidance.random_prior import make_prior

    return made_once(
        tmp_path_factory, "tiny-sd", lambda folder: make_prior(folder, "sd14", size="tiny", dtype="float32")
    )
