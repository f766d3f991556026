"""Axes of a search: settings from points and back, and what optuna proposes of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.search.axes import Axis, Point, read, settings
from harness.search.propose import Seen, distributions, propose

AXES = (
    Axis(key="knots.at", falling=4),
    Axis(key="knots.band", high=60),
    Axis(key="guidance.cfg_scale", low=2, high=40, log=True, digits=1),
    Axis(key="guidance.weighting", choices=("one", "sds")),
)


@st.composite
def drawn(draw: st.DrawFn) -> dict[str, float | str]:
    return {
        name: draw(st.sampled_from(axis.choices) if axis.choices else st.floats(axis.low, axis.high))
        for axis in AXES
        for name in axis.coordinates
    }


@given(drawn())
def test_a_point_is_its_settings_and_they_are_it(given_: dict[str, float | str]) -> None:
    point = {name: value for axis in AXES for name, value in axis.canonical(given_).items()}
    assert read(AXES, settings(AXES, point)) == point
    knots = [point[f"knots.at[{k}]"] for k in range(4)]
    assert knots == sorted(knots, reverse=True)
    assert all(axis.low <= float(point[n]) <= axis.high for axis in AXES[:3] for n in axis.coordinates)
    assert [{n: v for a in AXES for n, v in a.canonical(point).items()}] == [point]


@pytest.mark.parametrize(
    ("axis", "reason"),
    [
        ({"key": "a", "choices": ("x",), "falling": 3}, "not both"),
        ({"key": "a", "low": 3, "high": 3}, "below high"),
        ({"key": "a", "low": 0, "log": True}, "above 0"),
        ({"key": "a", "heigh": 3}, "heigh"),
    ],
)
def test_an_axis_that_makes_no_sense_is_refused(axis: dict, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Axis.model_validate(axis)


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        (["knots.at=9/5", "knots.band=0"], "has 4 numbers"),
        (["knots.at=9/5/4/3"], "each of"),
        (["knots.at=900/5/4/3", "knots.band=0"], "lies in"),
        (["knots.at=9/5/4/3", "knots.band=0", "knots.band=1"], "each of"),
    ],
)
def test_a_start_names_every_axis_once_and_inside(items: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read(AXES[:2], items)


def _worth(point: Point) -> float:
    """Best at 100/70/40/10 in a narrow band."""
    goal = dict(zip(AXES[0].coordinates, (100, 70, 40, 10), strict=True))
    return -sum(abs(float(point[name]) - value) for name, value in goal.items()) - float(point["knots.band"])


def _searched(sampler: str, generations: int = 8, demanded: float = -1e9) -> list[Seen]:
    axes, seen = AXES[:2], []
    for number in range(generations):
        points = propose(axes, seen, [], 8, 3, number, sampler)  # type: ignore[arg-type]
        assert len(points) == 8
        seen += [Seen(point, _worth(point), demanded - float(point["knots.at[0]"])) for point in points]
    return seen


def test_proposals_follow_from_what_was_seen_alone() -> None:
    first, again = _searched("tpe", 3), _searched("tpe", 3)
    assert [each.point for each in first] == [each.point for each in again]
    assert len({settings(AXES[:2], each.point) for each in first}) == len(first)
    other = propose(AXES[:2], first, [], 4, 4, 3)
    assert other != propose(AXES[:2], first, [], 4, 3, 3)


def test_what_was_seen_helps() -> None:
    late = {name: [each.value for each in _searched(name)[-24:]] for name in ("tpe", "random")}
    assert sum(late["tpe"]) / 24 > sum(late["random"]) / 24 + 20


def test_a_level_that_is_demanded_is_learned() -> None:
    last = _searched("tpe", demanded=90)[-24:]
    assert sum(each.shortfall <= 0 for each in last) > 12


def test_a_small_space_runs_out() -> None:
    axis = Axis(key="guidance.weighting", choices=("one", "sds", "fantasia"))
    taken: Point = {"guidance.weighting": "sds"}
    found = propose([axis], [Seen(taken, 1.0, 0.0)], [], 8, 0, 1)
    assert sorted(str(point["guidance.weighting"]) for point in found) == ["fantasia", "one"]
    assert set(distributions(AXES)) == {name for each in AXES for name in each.coordinates}
