"""3D consistency on views whose points are known, and on views that were exchanged."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eval.command import open_runs, write_tables
from eval.metrics.consistency import Ring, consistency, ring_of_truth, warp
from harness.config import UserError, ViewsConfig
from harness.scene.cameras import evaluation, rays
from harness.scene.kind import look_in
from harness.toyworld.kinds import ball
from tests import planted
from tests.eval.conftest import Sweep
from tests.eval.test_shapes import Made

VIEWS = ViewsConfig(azimuths=8, heldout_elevation=None)
CAMERAS = evaluation(VIEWS)
SIDE = 64
RADIUS = 0.6
MIXED = [0, 3, 6, 1, 4, 7, 2, 5]


def painted(x_N3: np.ndarray) -> np.ndarray:
    """A smooth colour of every point, 0…1."""
    return 0.5 + 0.5 * np.sin(4 * x_N3 + np.array([0.0, 1.0, 2.0]))


def ball_views(centre=(0.0, 0.0, 0.0)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures [8, H, W, 3] of a painted ball, its distances and where it is, by the equation of a sphere."""
    origins, towards = (each.double().numpy() for each in rays(CAMERAS, SIDE, SIDE))
    offset = origins - np.array(centre)
    b = (offset * towards).sum(-1)
    inner = b**2 - (offset**2).sum(-1) + RADIUS**2
    depth = -b - np.sqrt(np.maximum(inner, 0))
    images = np.where((inner > 0)[..., None], painted(origins + depth[..., None] * towards), 0.7)
    shape = (8, SIDE, SIDE)
    pictures = (images * 255).round().astype(np.uint8).reshape(*shape, 3)
    return pictures, np.where(inner > 0, depth, 9.0).reshape(shape), (inner > 0).reshape(shape)


def mean_colour(images: np.ndarray) -> torch.Tensor:
    """A scorer that sees mean colours."""
    rows = torch.from_numpy(images / 255.0).mean((1, 2))
    return rows / rows.norm(dim=1, keepdim=True)


def ring() -> Ring:
    return ring_of_truth(Made(ball((0, 0, 0), RADIUS, "red")), ball_views()[0], CAMERAS)


def test_traced_geometry_is_that_of_the_equation() -> None:
    _, depth, inside = ball_views()
    found = ring()
    hit = found.hit_VHW.numpy()
    assert not (hit & ~inside).any() and hit.sum() > 0.8 * inside.sum(), "without the outline"
    assert np.abs(found.depth_VHW.numpy() - depth)[hit].max() < 0.01


def test_what_a_neighbour_shows_is_where_the_equation_says() -> None:
    found = ring()
    seen, shown = warp(found, 0, 1)
    # Of the ball's points in view 0: the neighbour sees those whose normal faces it.
    origins, towards = (each.double().numpy() for each in rays(CAMERAS, SIDE, SIDE))
    points = origins[0] + found.depth_VHW[0].numpy().reshape(-1, 1) * towards[0]
    faces = (points * (origins[1] - points)).sum(-1) / np.linalg.norm(origins[1] - points, axis=-1) / RADIUS
    inside = found.hit_VHW[0].numpy().ravel()
    shown_P = shown.numpy().ravel()
    assert not (shown_P & ~inside).any()
    assert shown_P[inside & (faces > 0.45)].mean() > 0.98
    assert shown_P[inside & (faces < -0.2)].mean() == 0
    colours = painted(points)[shown_P & (faces > 0.45)]
    assert np.abs(seen.flatten(1).T.numpy()[shown_P & (faces > 0.45)] - colours).max() < 0.08


def test_an_object_is_consistent_and_views_of_others_are_not() -> None:
    found = ring()
    whole = consistency(found, mean_colour)
    assert whole.pixels < 0.03 and whole.features < 1e-3 and 0.5 < whole.covered < 0.95
    mixed = replace(found, rgb_V3HW=found.rgb_V3HW[MIXED])
    assert consistency(mixed, mean_colour).pixels > 5 * whole.pixels
    turned = replace(found, rgb_V3HW=found.rgb_V3HW.roll(4, 0))
    assert consistency(turned, mean_colour) == whole, "a ball that faces backwards is one all the same"
    flicker = found.rgb_V3HW.clone()
    flicker[::2] = flicker[::2].flip(1)
    flickering = consistency(replace(found, rgb_V3HW=flicker), mean_colour)
    assert flickering.pixels > 5 * whole.pixels and flickering.features > 5 * whole.features
    nothing = replace(found, hit_VHW=torch.zeros_like(found.hit_VHW))
    with pytest.raises(UserError, match="no two neighbouring views"):
        consistency(nothing, mean_colour)


def test_what_is_hidden_from_the_neighbour_does_not_count() -> None:
    """Two balls on the line of sight of view 2: it sees the near one, view 0 sees both."""
    near, far = ball((0, 0.5, 0.3), 0.3, "red"), ball((0, -0.5, -0.3), 0.3, "red")
    images = np.zeros((8, SIDE, SIDE, 3), np.uint8)
    found = ring_of_truth(Made(near, far), images, CAMERAS)
    shown = warp(found, 0, 2)[1].numpy()
    left = np.arange(SIDE)[None] < SIDE // 2
    hit = found.hit_VHW[0].numpy()
    # +y, where the near one is, is to the right of view 0's picture.
    assert shown[hit & ~left].any() and not shown[hit & left].any()


def test_runs_stand_beside_the_ground_truth(runs: Sweep, clip_folder: Path, tmp_path: Path) -> None:
    planted.kinds(tmp_path / "kinds")
    images, _, _ = ball_views()
    folders = [
        planted.run(runs.root, [(0.0, 0.0, 0.0, RADIUS, 200.0)], each, method=method, seed=9)
        for method, each in (("uniform_sds", images), ("worse", images[MIXED]))
    ]
    found = open_runs(
        runs.root,
        clip=str(clip_folder),
        device="cpu",
        samples=0,
        only=[folder.id for folder in folders],
        ground_truth=lambda prompt, views: images,
        solids=lambda prompt: Made(ball((0, 0, 0), RADIUS, "red")),
    )
    write_tables(found, ["consistency"], tmp_path / "out")
    look_in([])
    lines = {line["method"]: line for line in csv.DictReader((tmp_path / "out" / "consistency.csv").open())}
    assert list(lines) == ["uniform_sds", "worse", "ground truth"]
    pixels = {method: float(line["pixels"]) for method, line in lines.items()}
    assert pixels["uniform_sds"] == pytest.approx(pixels["ground truth"], abs=0.03)
    assert pixels["worse"] > 4 * pixels["uniform_sds"]
    assert (folders[0].eval / "consistency-v1.json").is_file()
