"""A mesh is the object that the run's renders show: its place, its size, its colours, in every format."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.config import Config, GuidanceConfig, UserError
from harness.guidance.prior import Guidance
from harness.guidance.random_prior import make_prior
from harness.objects import mesh as meshes
from harness.objects.colours import project
from harness.objects.export import export_mesh
from harness.objects.final import Final, NoSides, latents, load, load_prior, pictures
from harness.objects.formats import FORMATS, as_bytes, linear
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec
from harness.scene.cameras import evaluation, make, rays
from tests import solids, tinyruns


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Final:
    return load(solids.make(tmp_path_factory.mktemp("runs"), solids.fitted()))


def with_params(root: Path, **changes: Tensor) -> Final:
    return load(solids.make(root, solids.fitted() | changes))


def in_world(kind: str, vertices_N3: np.ndarray) -> np.ndarray:
    return vertices_N3 if kind == "ply" else vertices_N3[:, [2, 0, 1]]


@pytest.mark.parametrize("kind", FORMATS)
def test_the_mesh_is_the_object_and_survives_a_round_trip(kind: str, box: Final, tmp_path: Path) -> None:
    path, about = export_mesh(box, kind, tmp_path / f"box.{kind}", resolution=64)
    told = json.loads((tmp_path / f"box.{kind}.json").read_text())
    assert told == about and told["mark"] == "toy" and told["watertight"] and told["components"] == 1
    scene = trimesh.load_scene(path, process=False)  # a scene: a lone mesh would lose a glTF's vertex colours
    [found] = scene.geometry.values()
    assert (len(found.vertices), len(found.faces)) == (about["vertices"], about["faces"])
    assert found.is_watertight and found.is_winding_consistent
    assert found.volume == pytest.approx(8 * np.prod(solids.HALF_3), rel=0.05)
    place_N3 = in_world(kind, found.vertices)
    assert np.abs(np.abs(place_N3).max(0) - solids.HALF_3).max() < 0.05

    rgb_N3 = colours_of(found, kind)
    for is_side_N, wanted in ((place_N3[:, 1] > 0.15, solids.RED), (place_N3[:, 1] < -0.15, solids.BLUE)):
        assert np.abs(np.median(rgb_N3[is_side_N], 0) - wanted).max() < 0.12
        assert (np.abs(rgb_N3[is_side_N] - wanted).max(-1) < 0.35).mean() > 0.9

    written: Any = scene.export(file_type=kind)
    again = trimesh.load_scene(trimesh.util.wrap_as_stream(written), kind, process=False)
    [copy] = again.geometry.values()
    assert np.allclose(copy.vertices, found.vertices, atol=1e-5) and np.array_equal(copy.faces, found.faces)
    assert np.allclose(colours_of(copy, kind), rgb_N3, atol=0.01)


def colours_of(mesh: Any, kind: str) -> np.ndarray:
    """Vertex colours in sRGB, [0, 1]."""
    if kind != "glb":
        return mesh.visual.vertex_colors[:, :3] / 255
    light_N3 = mesh.visual.vertex_attributes["color"][:, :3] / 255
    return np.where(light_N3 <= 0.0031308, 12.92 * light_N3, 1.055 * light_N3 ** (1 / 2.4) - 0.055)


def test_normals_point_outwards(box: Final, tmp_path: Path) -> None:
    path, _ = export_mesh(box, "ply", tmp_path / "box.ply")
    header = path.read_bytes()[:600].decode(errors="replace")
    assert "comment toy a box" in header and "property float nx" in header
    mesh = trimesh.load_mesh(path, process=False)
    assert ((mesh.vertex_normals * mesh.vertices).sum(-1) > 0).mean() > 0.98


def test_the_fine_grid_is_looked_at_only_where_the_object_is(
    box: Final, monkeypatch: pytest.MonkeyPatch
) -> None:
    level = solids.DENSITY / 2
    grid = meshes.solidity_grid(box, level, 60)
    monkeypatch.setattr(meshes, "FAINT", 0.0)  # everything counts
    whole = meshes.solidity_grid(box, level, 60)
    assert grid.queried < 0.4 * whole.queried
    found, wanted = (meshes.level_surface(box, each, level) for each in (grid, whole))
    assert np.allclose(found.vertices, wanted.vertices, atol=1e-6)
    assert np.array_equal(found.faces, wanted.faces)


def test_a_field_that_fills_the_cube_is_cut_by_the_ball(tmp_path: Path) -> None:
    full = with_params(tmp_path, b2=solids.fitted()["b2"] + torch.tensor([100.0, 0, 0, 0, 0]))
    mesh = meshes.level_surface(full, meshes.solidity_grid(full, 5.0, 48), 5.0)
    assert mesh.is_watertight and np.allclose(np.linalg.norm(mesh.vertices, axis=-1), 1, atol=0.02)


def test_the_threshold_has_the_outlines_of_the_views(box: Final) -> None:
    threshold, iou = meshes.silhouette_threshold(box)
    assert 0 < threshold < solids.DENSITY and iou > 0.95


def test_an_empty_surface_says_so_and_leaves_nothing(box: Final, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"empty surface: its highest density is \d+.*, below the threshold 1e\+03"
    ):
        export_mesh(box, "glb", threshold=1000.0)
    assert not (box.folder.path / "mesh").exists()
    with pytest.raises(UserError, match="a density is above 0"):
        export_mesh(box, "glb", threshold=0.0)
    fog = with_params(tmp_path, b2=solids.fitted()["b2"] - torch.tensor([100.0, 0, 0, 0, 0]))
    with pytest.raises(UserError, match="empty surface: no pixel of its views takes half of the light"):
        export_mesh(fog, "glb")
    assert not (fog.folder.path / "mesh").exists()


@given(
    st.lists(st.floats(0.5, 2.0), min_size=1, max_size=4, unique_by=lambda r: round(r, 2)), st.integers(1, 5)
)
def test_the_largest_components_are_kept(radii: list[float], keep: int) -> None:
    balls = [
        trimesh.creation.icosphere(1, radius).apply_translation([9.0 * n, 0, 0])
        for n, radius in enumerate(radii)
    ]
    joined: Any = trimesh.util.concatenate(balls)
    kept, found = meshes.largest_components(joined, keep)
    assert found == len(radii)
    assert kept.area == pytest.approx(sum(sorted((ball.area for ball in balls), reverse=True)[:keep]))
    assert kept.is_watertight and len(kept.vertices) == 42 * min(keep, found)


@given(st.floats(0, 360), st.floats(-80, 80), st.integers(0, 63), st.floats(1, 4))
def test_what_is_on_a_pixels_ray_is_found_at_that_pixel(
    az: float, el: float, pixel: int, away: float
) -> None:
    camera = make([az], [el], [2.8], [40.0])
    origin_1P3, direction_1P3 = rays(camera, 8, 8)
    points_P3 = origin_1P3[0] + away * direction_1P3[0]
    place_P2, away_P, towards_P3 = project(camera, points_P3)
    row, column = divmod(pixel, 8)
    wanted = torch.tensor([(column + 0.5) / 4 - 1, (row + 0.5) / 4 - 1])
    assert torch.allclose(place_P2[pixel], wanted, atol=1e-3)
    assert torch.allclose(away_P, torch.full_like(away_P, away), atol=1e-4)
    assert torch.allclose(towards_P3, -direction_1P3[0], atol=1e-4)


def test_linear_light_is_srgbs_inverse() -> None:
    assert np.allclose(linear(np.array([0.0, 0.04, 0.5, 1.0])), [0, 0.0030960, 0.2140411, 1], atol=1e-6)


def test_what_a_final_run_shows_are_its_stored_views(tiny_prior: Path, tmp_path: Path) -> None:
    [run_id] = tinyruns.create(tmp_path, tiny_prior, runs=1)
    tinyruns.run(tmp_path, [run_id])
    final = load(RunFolder(tmp_path / run_id))
    seen_VHWC = pictures(
        load_prior(final), latents(final, load_prior(final), evaluation(final.spec.config.views))
    )
    assert np.array_equal(seen_VHWC.numpy(), final.folder.views(tinyruns.STEPS))


def test_a_prior_of_pixels_needs_no_decoder(tmp_path: Path) -> None:
    folder = make_prior(tmp_path / "if", "if-i", size="tiny", dtype="float32")
    side = Guidance.load(GuidanceConfig(prior=str(folder)), local_files_only=True).image_size
    scene = tinyruns.config(folder).scene.model_copy(update={"resolution": side})
    [run_id] = tinyruns.create(tmp_path, folder, runs=1, scene=scene.model_dump())
    tinyruns.run(tmp_path, [run_id])
    final = load(RunFolder(tmp_path / run_id))
    _, about = export_mesh(final, "ply")
    assert about["mark"] == "RANDOM WEIGHTS" and about["watertight"]
    mesh = trimesh.load_mesh(final.folder.path / "mesh" / "object.ply", process=False)
    x_1NC = final.scene.query(final.params, torch.from_numpy(mesh.vertices)[None].float())[1]
    own_N3 = (x_1NC[0] / 2 + 0.5).clamp(0, 1).detach().numpy()
    assert np.abs(colours_of(mesh, "ply") - own_N3).mean() < 0.1


def test_a_run_without_a_field_is_refused(tmp_path: Path) -> None:
    flat = {"scene": {"kind": "image"}, "views": {"azimuths": 1, "heldout_elevation": None}}
    cfg = Config.model_validate(flat)
    image = RunFolder.create(tmp_path, RunSpec(method="tp_sds", prompt="a box", seed=0, config=cfg))
    with pytest.raises(NoSides, match="made a picture"):
        load(image)
    new = RunFolder.create(tmp_path, RunSpec(method="tp_sds", prompt="a box", seed=7, config=solids.config()))
    with pytest.raises(NoSides, match="is not done: it is new"):
        load(new)
    gone = solids.make(tmp_path, solids.fitted(), seed=8)
    (gone.path / "checkpoint.safetensors").unlink()
    with pytest.raises(NoSides, match="no parameters of its last step"):
        load(gone)
    (gone.path / "checkpoint.safetensors").write_bytes(b"half a")
    with pytest.raises(UserError, match="cannot be read"):
        load(gone)


def test_other_weights_decode_nothing(tmp_path: Path) -> None:
    folder = solids.make(tmp_path, solids.fitted())
    env = folder.env()
    assert env
    folder.save_env({"prior": env["prior"] | dict.fromkeys(("weights_hash", "content_hash"), "0" * 64)})
    with pytest.raises(UserError, match="weights 000000000000 of toy-sd"):
        export_mesh(load(folder), "glb")
    assert not (folder.path / "mesh").exists()


def test_the_same_mesh_has_the_same_bytes() -> None:
    ball = trimesh.creation.icosphere(1)
    about = {"mark": "toy", "prompt": "a ball", "run": "r"}
    rgb_N3 = np.full((len(ball.vertices), 3), 0.5)
    for kind in FORMATS:
        assert as_bytes(ball, rgb_N3, kind, about) == as_bytes(ball, rgb_N3, kind, about)


@pytest.mark.parametrize("kind", ["ply", "obj", "glb"])
def test_a_prompt_is_text_in_the_head_of_a_file(kind: str) -> None:
    mesh = trimesh.creation.box()
    prompt = "a cup\nelement vertex 9\r\nend_header\nv 0 0 0 \x00 € $x$"
    about = {"mark": "toy", "prompt": prompt, "run": "m-a-cup-s0\nend_header"}
    data = as_bytes(mesh, np.full((len(mesh.vertices), 3), 0.5), kind, about)
    back: Any = trimesh.load(io.BytesIO(data), file_type=kind, process=False, force="mesh")
    assert len(back.vertices) == len(mesh.vertices) and np.allclose(back.bounds, mesh.bounds)
    if kind != "glb":
        shown = data.replace(b"end-header", b"end_header")
        assert b"a cup element vertex 9  end_header v 0 0 0 \\x00" in shown
