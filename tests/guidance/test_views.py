"""View words at and around the borders of their sectors."""

import pytest

from harness.config import UserError
from harness.guidance.views import VIEWS, view_name, view_prompt


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
