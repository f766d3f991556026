"""Fixtures shared by all tests."""

from pathlib import Path

import pytest

from harness.guidance.random_prior import make_prior


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder with small random weights: latents 4×8×8, images 32×32."""
    return make_prior(tmp_path_factory.mktemp("prior") / "tiny-sd", "sd14", size="tiny", dtype="float32")
