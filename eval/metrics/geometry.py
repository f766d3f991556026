"""Geometry without a reference: parts, tunnels, cavities, floaters, roughness and fog of a run's object.

The object is the level surface that `harness export` writes (`harness.objects.mesh`), on a grid of `CELLS`
cells a side. What is smaller than `SPECK` cells is not resolved there and is no part and no cavity.

- Parts: closed surfaces that face outwards. Cavities: those that face inwards, walls of hollows.
- Tunnels: the sum of the genus of all surfaces, K − χ/2 with K surfaces of Euler characteristic χ together: a
  cup has one, in its handle.
- Watertight: every edge has two faces that run against each other, so that the export has no hole.
- Roughness: the median angle in degrees between faces that share an edge, by the edges' length: creases of an
  object are few and do not count, noise is everywhere.
- Floaters: the share of what the evaluation views see, by opacity, that is farther from the largest part than
  `NEAR` cells and the scene's own step of depth: of a ray that hits something, where its light ends in the
  mean.
- Fog: of the rays that see something (opacity above `SEEN`), the share that is not stopped (below `STOPPED`):
  neither hit nor miss. A thin rim of every object is, so the share falls with the resolution of the views.

Where prompts have solids, the first five stand beside those of the solids, on the same grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
import trimesh
from scipy.ndimage import distance_transform_edt
from skimage import measure

from eval.metric import PARAMETERS, Column, Reference, RunMetric, Values
from eval.metrics.shapes import Solid
from eval.sources.load import RunRecord
from harness.config import UserError
from harness.objects.final import Final, NoSides, load
from harness.objects.mesh import Grid, level_surface, solidity_grid, surface_level, triangles
from harness.scene.cameras import evaluation

CELLS = 64
SPECK = 8  # cells of volume
NEAR = 2  # cells
SEEN, STOPPED = 0.05, 0.95
SIDE = 2  # rays a side for one of the scene's own


@dataclass(frozen=True)
class Anatomy:
    """What a closed surface is made of."""

    parts: int
    tunnels: int
    cavities: int
    roughness: float
    watertight: float


@dataclass(frozen=True)
class Geometry(Anatomy):
    """A run's object, and what its views see beside it; shares in 0…1."""

    floaters: float
    fog: float


def anatomy(mesh: trimesh.Trimesh, cell: float) -> Anatomy:
    """Of a surface from a grid of cells of this edge."""
    label_F = trimesh.graph.connected_component_labels(mesh.face_adjacency, node_count=len(mesh.faces))
    a_F3, b_F3, c_F3 = mesh.triangles.transpose(1, 0, 2)
    volume_K = np.bincount(label_F, weights=(a_F3 * np.cross(b_F3, c_F3)).sum(1) / 6)
    resolved = np.abs(volume_K) >= SPECK * cell**3
    tunnels = len(volume_K) - mesh.euler_number / 2
    ends_2E3 = mesh.vertices[mesh.face_adjacency_edges.T]
    angle_E = np.rad2deg(mesh.face_adjacency_angles)
    length_E = np.linalg.norm(ends_2E3[0] - ends_2E3[1], axis=1)
    return Anatomy(
        parts=int((resolved & (volume_K > 0)).sum()),
        tunnels=max(0, round(tunnels)),
        cavities=int((resolved & (volume_K < 0)).sum()),
        roughness=float(np.quantile(angle_E, 0.5, weights=length_E, method="inverted_cdf")),
        watertight=float(mesh.is_watertight and mesh.is_winding_consistent),
    )


def truth(solid: Solid, cells: int = CELLS) -> Anatomy:
    """The same of a solid inside the cube [−1, 1]³."""
    axis = np.linspace(-1, 1, cells + 1)
    points_N3 = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    solidity_XYZ = -solid.distance(points_N3).reshape((cells + 1,) * 3)
    spacing = 2 / cells
    grid = Grid(np.pad(solidity_XYZ, 1, constant_values=-1.0), np.full(3, -1 - spacing), spacing, 0)
    return anatomy(triangles(grid, 0.0), spacing)


@torch.no_grad()
def of_scene(final: Final) -> Geometry:
    """A run's object and views. UserError where the scene says of no point what is there, and where no view
    sees an outline."""
    if final.scene.quantity is None:
        raise UserError(f"a scene of kind {final.spec.config.scene.kind} has no surface to measure")
    level, _ = surface_level(final)
    grid = solidity_grid(final, level, CELLS)
    opacity_P, points_P3 = _seen(final)
    away_P = outside(grid, level)(points_P3)
    off_P = away_P > NEAR * grid.spacing + final.scene.depth_step
    seen_P = opacity_P > SEEN
    return Geometry(
        **asdict(anatomy(level_surface(final, grid, level), grid.spacing)),
        floaters=float((opacity_P * off_P).sum() / opacity_P.sum()),
        fog=float((opacity_P[seen_P] < STOPPED).mean()) if seen_P.any() else 0.0,
    )


def outside(grid: Grid, level: float) -> Callable[[np.ndarray], np.ndarray]:
    """How far points [P, 3] are from the largest part of what is beyond the level, to the nearest node; 0 in
    it."""
    label_XYZ = np.asarray(measure.label(grid.solidity_XYZ > level, connectivity=1))
    largest = 1 + int(np.argmax(np.bincount(label_XYZ.ravel())[1:]))
    away_XYZ = np.asarray(distance_transform_edt(label_XYZ != largest)) * grid.spacing
    last_3 = np.array(away_XYZ.shape) - 1

    def distance(points_P3: np.ndarray) -> np.ndarray:
        node_P3 = (points_P3 - grid.origin_3) / grid.spacing
        near_P3 = node_P3.clip(0, last_3)
        beyond_P = np.linalg.norm(node_P3 - near_P3, axis=1) * grid.spacing
        return away_XYZ[tuple(np.rint(near_P3).astype(int).T)] + beyond_P

    return distance


def _seen(final: Final) -> tuple[np.ndarray, np.ndarray]:
    """Opacity [P] and mean point [P, 3] of every ray of the evaluation views."""
    cameras = evaluation(final.spec.config.views)
    side = SIDE * final.scene.cfg.resolution
    seen = [final.scene.surface(final.params, cameras[v : v + 1], side) for v in range(len(cameras))]
    return (
        torch.cat([each.opacity_P for each in seen]).cpu().numpy(),
        torch.cat([each.points_P3 for each in seen]).cpu().numpy(),
    )


class GeometryOfRuns(RunMetric):
    """At the last step. What has no outline, no surface or no sides is left out, and so are failed runs."""

    caption = "Geometry at the final step [95 % interval over prompts]"
    columns = (
        Column("parts", "parts"),
        Column("tunnels", "tunnels"),
        Column("cavities", "cavities"),
        Column("watertight", "watertight, %", "%", "higher"),
        Column("roughness", "roughness, °", better="lower", digits=1),
        Column("floaters", "floaters, %", "%", "lower"),
        Column("fog", "fog, %", "%", "lower"),
    )
    needs = (PARAMETERS,)
    slow = True
    on_request = True
    lacking = (
        "geometry needs scenes with sides, their parameters of the last step, and an outline in their views"
    )

    def of_run(self, run: RunRecord) -> Values | None:
        """The fields of `Geometry`."""
        try:
            return asdict(of_scene(load(run.folder)))
        except NoSides as error:
            self.runs.note(f"left out of {self.name}: {error}")
            return None

    @cached_property
    def truth(self) -> pd.DataFrame:
        """The same of the prompts' solids: prompt, seed and the fields of `Anatomy`."""
        return pd.DataFrame(
            {"prompt": prompt, "seed": 0} | asdict(truth(solid)) for prompt, solid in self.runs.solids.items()
        )

    def references(self) -> list[Reference]:
        """Ground truth, where there is any."""
        return self.reference("ground truth", self.truth)
