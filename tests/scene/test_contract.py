"""The contract that every kind of scene keeps, through the real runner: no kind is left out."""

import pytest

from harness.check.scene import CHECKS, Trial
from harness.scene.kind import discover


@pytest.fixture(scope="module", params=sorted(discover()))
def trial(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return Trial(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("check", CHECKS)
def test_contract(check: str, trial: Trial) -> None:
    CHECKS[check](trial)
