"""Shapes against ground truth, on solids whose answer is known."""

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics.shapes import (
    CELLS,
    TOLERANCE,
    Shapes,
    centres,
    f_score,
    fit,
    iou,
    solid_of,
    view_error,
)
from eval.sources.load import load_run
from harness.config import UserError, ViewsConfig
from harness.toyworld.kinds import ball, box
from harness.toyworld.render import BACKGROUND, ground_truth
from harness.toyworld.solid import Solid
from tests import solids


class Made(Solid):
    """A solid of primitives, without a caption."""

    def __init__(self, *rows):
        self.rows = np.array(rows, dtype=np.float32)


def sphere(radius, centre=(0, 0, 0)):
    return Made(ball(centre, radius, "red"))


CAR = Solid("a red car")


def test_distances_of_a_ball_and_a_box_are_those_of_geometry():
    points = np.random.default_rng(0).uniform(-1, 1, (200, 3))
    assert np.allclose(sphere(0.5).distance(points), np.linalg.norm(points, axis=1) - 0.5, atol=1e-5)
    half = np.array([0.3, 0.4, 0.5])
    solid = Made(box((0, 0, 0), (0.3, 0.4, 0.5), "red", rounding=0.0))
    inside = (np.abs(points) <= half).all(1)
    assert np.array_equal(solid.distance(points) <= 0, inside)


def test_volume_and_overlap_of_balls():
    solid = solid_of(sphere(0.6), CELLS)
    volume = solid.sum() * (2 / CELLS) ** 3
    assert volume == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.01)
    # two equal balls a radius apart share 5/16 of either
    other = solid_of(sphere(0.6, (0.6, 0, 0)), CELLS)
    assert iou(solid, other) == pytest.approx(5 / 27, abs=0.01)


def test_a_surface_within_the_tolerance_counts_and_one_beyond_does_not():
    solid = solid_of(sphere(0.6), CELLS)
    assert f_score(solid, solid) == 1.0
    near, far = (solid_of(sphere(0.6 + grow), CELLS) for grow in (0.02, 0.2))
    assert f_score(near, solid) > 0.95 and f_score(far, solid) == 0.0
    assert f_score(solid, np.zeros_like(solid)) == 0.0


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 35), st.floats(0.9, 1.1), st.tuples(*[st.floats(-0.15, 0.15)] * 3))
def test_a_turned_scaled_and_shifted_thing_is_the_same_thing_aligned(turn, scale, shift):
    moved = solid_of(CAR, CELLS, turn * 10.0, scale, shift)
    found = fit(moved, CAR)
    assert found.aligned_iou > 0.85 and found.aligned_f_score > 0.85
    assert found.aligned_iou >= found.iou
    if 30 < turn * 10 < 330:
        assert abs((found.turn - turn * 10 + 180) % 360 - 180) <= 6


def test_the_truth_itself_is_the_ceiling_another_object_is_not_and_nothing_is_nothing():
    assert fit(solid_of(CAR, CELLS), CAR) == fit(solid_of(CAR, CELLS), CAR)
    exact = fit(solid_of(CAR, CELLS), CAR)
    assert exact.iou == exact.f_score == 1.0 and exact.aligned_iou == 1.0
    other = fit(solid_of(Solid("a red giraffe"), CELLS), CAR)
    assert other.aligned_iou < 0.6
    nothing = fit(np.zeros((CELLS,) * 3, dtype=bool), CAR)
    assert (nothing.iou, nothing.aligned_iou, nothing.f_score) == (0.0, 0.0, 0.0)


def test_silhouettes_are_where_the_pictures_are_not_background():
    views = ViewsConfig(azimuths=3, heldout_elevation=None)
    cameras = np.array([[azimuth, 30.0, 2.8, 40.0] for azimuth in (0.0, 120.0, 240.0)])
    pictures = ground_truth("a red car", views)
    solid = np.abs(pictures / 255 - np.array(BACKGROUND)).max(-1) > 0.02
    outline = CAR.silhouettes(cameras)
    assert (outline & ~solid).sum() == 0
    assert (solid & ~outline).sum() < 0.06 * solid.sum()  # half-covered pixels at the edge


def test_views_of_another_side_than_the_truths_are_compared_at_the_smaller_one():
    truth = ground_truth("a red car", ViewsConfig(azimuths=2, heldout_elevation=None))
    small = truth.reshape(2, 32, 2, 32, 2, 3).mean((2, 4))
    large = truth.repeat(4, axis=1).repeat(4, axis=2)
    assert view_error(small, truth) == pytest.approx(0, abs=1e-9) == view_error(large, truth)
    apart = np.sqrt(np.square(truth / 255.0 - truth[::-1] / 255.0).mean())
    assert view_error(truth[::-1], truth) == pytest.approx(apart) == view_error(large[::-1], truth)
    assert 0 < view_error(small[::-1], truth) < apart


def test_a_caption_of_another_world_has_no_solid():
    with pytest.raises(UserError, match="toy prior does not know"):
        Solid("a corgi riding a bicycle")
    assert TOLERANCE > 2 / CELLS and len(centres(CELLS)) == CELLS**3


def test_a_field_fitted_to_a_box_has_the_boxs_shape_and_keeps_what_was_measured(tmp_path):
    folder = solids.make(tmp_path, solids.fitted())
    truth = ground_truth("a red car", solids.config().views)
    folder.save_views(1, np.roll(truth, 1, axis=0))
    run = load_run(folder)

    def measured(solid, truth_VHWC):
        runs = SimpleNamespace(solids={run.prompt: solid}, truth={run.prompt: truth_VHWC})
        found, problem, _ = Shapes(cast(Any, runs))._value(run)
        assert found is not None, problem
        return found

    found = measured(Made(box((0, 0, 0), solids.HALF_3, "red", rounding=0.0)), truth)
    assert found["view_error"] > 0
    assert min(found["iou"], found["f_score"], found["silhouette_iou"]) > 0.85, found
    assert found["aligned_iou"] >= found["iou"]
    assert measured(Solid("a red cup"), truth) == found, "kept from before"
    assert measured(Solid("a red cup"), truth[::-1])["iou"] < 0.85, "of another ground truth"
