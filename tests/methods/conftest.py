"""Priors of each kind of prediction, for the methods' tests."""

from pathlib import Path

import pytest

from harness.guidance.prior import Guidance
from harness.guidance.random_prior import make_prior
from tests.conftest import made_once
from tests.methods import plain


@pytest.fixture(scope="session")
def prior(tiny_prior: Path) -> Guidance:
    """A tiny prior that predicts ε."""
    return plain.load(tiny_prior)


@pytest.fixture(scope="session", params=["sd14", "sd21", "sd3"], ids=["epsilon", "v_prediction", "flow"])
def any_prior(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Guidance:
    """Tiny priors: one that predicts ε, one that predicts v, and a flow."""

    def make(folder: Path) -> object:
        return make_prior(folder, request.param, size="tiny", dtype="float32")

    return plain.load(made_once(tmp_path_factory, f"tiny-{request.param}", make))
