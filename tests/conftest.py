"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

from harness.threads import environment, wait_asleep


def pytest_configure() -> None:
    """What is read when torch, numba and Triton are first imported: by the test modules, after this."""
    wait_asleep()
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ |= environment(1)
    import torch

    # Triton's kernels are interpreted where no GPU can run them.
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder with small random weights: latents 4×8×8, images 32×32."""
    from harness.guidance.random_prior import make_prior

    return make_prior(tmp_path_factory.mktemp("prior") / "tiny-sd", "sd14", size="tiny", dtype="float32")
