"""Curves of t, against numbers worked out by hand for t from 980 to 20."""

import pytest

from harness.guidance.prior import Guidance
from tests.methods import plain


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("sqrt", [884, 500, 212, 20]),  # √ of .01, .25, .64, 1
        ("cosine", [980, 839, 296, 20]),
        ("stages", [884, 692, 308, 116]),
    ],
)
def test_curves(prior: Guidance, preset: str, expected: list[int]) -> None:
    method = plain.made("curved_decay", prior, preset=preset)
    assert plain.timesteps(method, [1, 25, 64, 100], 100) == expected


def test_the_cube_root(prior: Guidance) -> None:
    method = plain.made("curved_decay", prior, preset="cbrt")
    assert plain.timesteps(method, [1, 27, 64, 1000], 1000) == [884, 692, 596, 20]


def test_it_never_rises(prior: Guidance) -> None:
    for preset in ("sqrt", "cbrt", "cosine", "stages"):
        t = plain.timesteps(plain.made("curved_decay", prior, preset=preset), list(range(1, 101)), 100)
        assert t == sorted(t, reverse=True)


def test_stages_are_drawn_from(prior: Guidance) -> None:
    method = plain.made("curved_decay", prior, preset="stages_drawn")
    ends = [(0.0, [980, 788, 404, 212]), (0.999999, [788, 596, 212, 20])]
    for draw, expected in ends:
        assert plain.timesteps(method, [1, 25, 64, 100], 100, draw) == expected
