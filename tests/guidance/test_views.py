"""View words at and around the borders of their sectors."""

import pytest

from harness.config import UserError
from harness.guidance.views import VIEWS, perp_neg, view_name, view_prompt


@pytest.mark.parametrize(
    ("azimuth", "elevation", "view"),
    [
        (0, 30, "front"),
        (44.9, 0, "front"),
        (-44.9, 0, "front"),
        (315.1, 0, "front"),
        (45, 0, "side"),
        (90, 0, "side"),
        (270, 0, "side"),
        (135, 0, "side"),
        (135.1, 0, "back"),
        (180, 0, "back"),
        (-180, 0, "back"),
        (225.1, 0, "side"),
        (10, 60, "front"),
        (10, 60.1, "overhead"),
        (180, 90, "overhead"),
    ],
)
def test_names(azimuth: float, elevation: float, view: str) -> None:
    assert view_name(azimuth, elevation) == view
    assert view in VIEWS


def test_sectors_are_settings() -> None:
    assert view_name(50, 0, front_sector=120) == "front"
    assert view_name(0, 50, overhead=45) == "overhead"


def test_prompts() -> None:
    assert view_prompt("{prompt}, {view} view", "a red mug", "side") == "a red mug, side view"
    assert view_prompt("{view} view of {prompt}", "a {curly} mug", "back") == "back view of a {curly} mug"
    with pytest.raises(UserError, match=r"use \{prompt\} and \{view\} only"):
        view_prompt("{prompt} {angle}", "a mug", "side")


@pytest.mark.parametrize(
    ("azimuth", "positives", "weights"),
    [
        (0, {"front": 1}, {"front": -(4 * 0.60653 - 2.426), "side": -1.574}),
        (-90, {"side": 1}, {"side": -(0.60653 - 0.606), "front": -(0.60653 + 0.967)}),
        (180, {"back": 1}, {"side": -0.394, "front": -1.967}),
        (225, {"side": 0.5, "back": 0.5}, {"side": -(0.77880 - 0.606), "front": -(0.77880 + 0.967)}),
    ],
)
def test_perp_neg(azimuth: float, positives: dict[str, float], weights: dict[str, float]) -> None:
    plan = perp_neg("any", azimuth)
    assert {view: share for view, share in plan.positives if share} == pytest.approx(positives)
    assert dict(plan.negatives) == pytest.approx(weights, abs=1e-4)
    assert not any(weight for _, weight in perp_neg("overhead", azimuth).negatives)
