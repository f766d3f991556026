"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
import torch

# Read when Triton is first imported: its kernels are interpreted where no GPU can run them.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from harness.guidance.random_prior import make_prior


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder with small random weights: latents 4×8×8, images 32×32."""
    return make_prior(tmp_path_factory.mktemp("prior") / "tiny-sd", "sd14", size="tiny", dtype="float32")
