"""Geometry of objects that were made to have a floater, a hole, fog and noise."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.measure import euler_number, label

from eval.command import open_runs, write_tables
from eval.metrics.geometry import Anatomy, of_scene, truth
from harness.config import UserError
from harness.objects.final import load
from harness.scene.cameras import evaluation, rays
from harness.scene.kind import look_in
from harness.toyworld.kinds import ball, box, ring
from tests import planted
from tests.eval.conftest import Sweep
from tests.eval.test_shapes import Made

BODY = (0.0, 0.0, 0.0, 0.5, 200.0)


@pytest.fixture
def made(tmp_path: Path):
    planted.kinds(tmp_path / "kinds")
    yield lambda *balls, **spec: load(planted.run(tmp_path / "runs", balls, **spec))
    look_in([])


class Hollow(Made):
    """Less a ball in the middle."""

    def distance(self, points_N3):
        return np.maximum(super().distance(points_N3), 0.3 - np.linalg.norm(points_N3, axis=1))


class Rough(Made):
    """With a surface that is nowhere smooth."""

    def distance(self, points_N3):
        noise = np.random.default_rng(0).uniform(-0.02, 0.02, len(points_N3))
        return super().distance(points_N3) + noise


SOLIDS = {
    "a ball": (Made(ball((0, 0, 0), 0.6, "red")), (1, 0, 0)),
    "a ring": (Made(ring((0, 0, 0), 0.6, 0.15, "red")), (1, 1, 0)),
    "two rings": (Made(ring((0, 0, 0.5), 0.5, 0.12, "red"), ring((0, 0, -0.5), 0.5, 0.12, "red")), (2, 2, 0)),
    "a hollow": (Hollow(ball((0, 0, 0), 0.6, "red")), (1, 0, 1)),
    "a frame": (
        Made(*[box((x, 0, 0), (0.05, 0.7, 0.1), "red") for x in (-0.5, 0, 0.5)],
             *[box((0, y, 0), (0.55, 0.05, 0.1), "red") for y in (-0.65, 0.65)]),
        (1, 2, 0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SOLIDS)
def test_parts_tunnels_and_cavities_are_those_of_counting_cells(name: str) -> None:
    solid, expected = SOLIDS[name]
    found = truth(solid)
    assert (found.parts, found.tunnels, found.cavities, found.watertight) == (*expected, 1.0)
    # Of the cells of the solid: b0 − b1 + b2 is their Euler characteristic.
    axis = np.linspace(-1, 1, 65)
    points_N3 = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    solid_XYZ = (solid.distance(points_N3) <= 0).reshape(65, 65, 65)
    parts = int(np.asarray(label(solid_XYZ, connectivity=1)).max())
    cavities = int(np.asarray(label(~solid_XYZ, connectivity=3)).max()) - 1
    tunnels = parts + cavities - euler_number(solid_XYZ, connectivity=1)
    assert (found.parts, found.tunnels, found.cavities) == (parts, tunnels, cavities)


def test_what_the_grid_does_not_resolve_is_no_part() -> None:
    body = ball((0, 0, 0), 0.5, "red")
    assert truth(Made(body, ball((0, 0, 0.8), 0.03, "red"))).parts == 1
    assert truth(Made(body, ball((0, 0, 0.8), 0.05, "red"))).parts == 2


def test_noise_is_rough_and_creases_are_not() -> None:
    smooth, creased = truth(SOLIDS["a ball"][0]), truth(Made(box((0, 0, 0), (0.5, 0.6, 0.4), "red")))
    rough = truth(Rough(ball((0, 0, 0), 0.6, "red")))
    assert smooth.roughness < 3 and creased.roughness < 3
    assert rough.roughness > 5 * smooth.roughness


def test_a_floater_is_the_share_of_the_views_that_it_covers_and_fog_is_no_object(made) -> None:
    alone = of_scene(made(BODY))
    assert (alone.parts, alone.tunnels, alone.cavities) == (1, 0, 0)
    assert alone.floaters < 0.02 and alone.fog < 0.2
    final = made(BODY, (0.0, 0.0, 0.75, 0.15, 200.0), seed=1)
    beside = of_scene(final)
    assert beside.parts == 2
    # Which rays pass the balls' centres by less than their radii; few pass both.
    origins_VP3, towards_VP3 = rays(evaluation(final.spec.config.views), 64, 64)
    hits = []
    for x, y, z, radius in ((0, 0, 0.75, 0.15), (0, 0, 0, 0.5)):
        to_VP3 = torch.tensor([x, y, z]) - origins_VP3
        hits.append(torch.linalg.cross(to_VP3, towards_VP3).norm(dim=-1) < radius)
    expected = float(hits[0].sum() / (hits[0] | hits[1]).sum())
    assert beside.floaters == pytest.approx(expected, rel=0.15)
    # through the middle of the fog goes exp(−1.1)
    fog = of_scene(made((0.0, 0.0, 0.0, 0.9, 0.6), (0.0, 0.0, 0.0, 0.3, 200.0), seed=2))
    assert fog.fog > 0.6, "it is seen, and stops nothing"
    assert fog.floaters > 0.3, "what ends before the object does not belong to it"


def test_a_table_of_runs_is_kept_and_says_what_is_left_out(
    made, runs: Sweep, clip_folder: Path, tmp_path: Path
) -> None:
    ids = [made(BODY, seed=7).folder.id, made((0.0, 0.0, 0.0, 0.3, 0.01), seed=8).folder.id]

    def table(*only: str) -> tuple[dict[str, str], list[str]]:
        found = open_runs(runs.root, clip=str(clip_folder), device="cpu", samples=0, only=only)
        write_tables(found, ["geometry"], tmp_path / "out")
        [line] = csv.DictReader((tmp_path / "out" / "geometry.csv").open())
        return line, found.notes

    line, notes = table(*ids)
    assert (line["parts"], line["tunnels"], line["prompts"], line["seeds"]) == ("1", "0", "1", "1")
    [told] = [note for note in notes if "left out of geometry" in note]
    assert ids[1] in told and "empty surface" in told
    kept = runs.root / ids[0] / "eval" / "geometry-v1.json"
    data = json.loads(kept.read_text())
    assert set(data["values"]) == {*Anatomy.__dataclass_fields__, "floaters", "fog"}
    kept.write_text(json.dumps(data | {"values": data["values"] | {"parts": 7}}))
    assert table(ids[0])[0]["parts"] == "7", "it was not computed again"
    without = next(path.name for path in runs.root.glob("uniform_sds*"))
    with pytest.raises(UserError, match="geometry needs scenes with sides"):
        table(without)
