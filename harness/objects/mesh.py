"""A scene's level surface as a triangle mesh: its solidity on a grid that is fine where the object is, then
marching cubes (Lorensen and Cline 1987, in Lewiner's variant).

Solidity is what rises towards the inside: a density, which has its surface at a threshold, or a signed
distance turned round, at zero. Only the ball of radius `bound` counts, which is all that cameras look at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from skimage.measure import marching_cubes
from torch import Tensor
from torch.nn.functional import max_pool3d

from harness.config import UserError
from harness.objects.final import Final
from harness.scene.cameras import evaluation
from harness.scene.renderer import sample_rays

FINEST = 256  # cells along an axis, unless asked for more
FAINT = 0.1  # of the threshold: what the coarse grid takes for a sign of something
OUTLINE = 4  # pixels of an outline for one of the scene's own
CHUNK = 2**18  # points of one query


@dataclass(frozen=True)
class Grid:
    """Solidity at the nodes of a box of the cube: node (i, j, k) is at origin_3 + spacing · (i, j, k)."""

    solidity_XYZ: np.ndarray
    origin_3: np.ndarray
    spacing: float
    queried: int  # nodes where it was computed, of both grids


def default_resolution(final: Final) -> int:
    """Two cells for each of the scene's finest, which holds nothing finer; at most FINEST."""
    return min(FINEST, 2 * final.scene.finest_cells)


def surface_level(final: Final) -> tuple[float, float | None]:
    """The level of solidity that the run's surface is at; of a density, how well it has the outlines of the
    evaluation views, too: see `silhouette_threshold`."""
    return (0.0, None) if final.scene.quantity == "distance" else silhouette_threshold(final)


@torch.no_grad()
def silhouette_threshold(final: Final) -> tuple[float, float]:
    """The density whose level surface has the outlines of the run's evaluation views, and how well: the
    intersection over union of the pixels it covers with those that let at most half of the light through.

    A surface of level T covers a pixel if the density reaches T along its ray. UserError where no pixel of
    any view takes half of the light: there is no outline to go by.
    """
    cameras, scene, cfg = evaluation(final.spec.config.views), final.scene, final.scene.cfg
    peaks, opaque = [], []
    for v in range(len(cameras)):
        camera, side = cameras[v : v + 1], OUTLINE * cfg.resolution
        at = sample_rays(scene.bound, cfg.samples, camera, None, side, side, final.device)
        density_1N = scene.solidity(final.params, at.points_RPS3.flatten(1, 2))
        peaks.append(density_1N.unflatten(1, at.points_RPS3.shape[1:3])[0].amax(-1))
        opaque.append(scene.surface(final.params, camera, side).opacity_P >= 0.5)
    peak_P, order_P = torch.cat(peaks).sort(descending=True)
    is_opaque_P = torch.cat(opaque)[order_P]
    total = int(is_opaque_P.sum())
    if not total:
        raise UserError(
            f"{final.folder.id} has an empty surface: no pixel of its views takes half of the light, and its "
            f"highest density there is {float(peak_P[0]):.3g}; --threshold takes a density below that"
        )
    both_P = is_opaque_P.cumsum(0)
    covered_P = torch.arange(1, len(peak_P) + 1, device=both_P.device)
    iou_P = both_P / (covered_P + total - both_P)
    best = int(iou_P.argmax())
    return float(peak_P[best]), float(iou_P[best])


@torch.no_grad()
def solidity_grid(final: Final, level: float, resolution: int) -> Grid:
    """Solidity near everything that may be beyond `level`, on a grid of `resolution` cells a side.

    A grid of half the resolution finds where that is; the rest of the box counts as empty. UserError where it
    is empty everywhere.
    """
    bound = final.scene.bound
    coarse = -(-resolution // 2)
    fine = 2 * coarse
    spacing = 2 * bound / fine
    # What the coarse grid takes for a sign of something, and what stands for nothing; both below the level.
    if final.scene.quantity == "distance":
        faint, nothing = level - 2 * 3**0.5 * spacing, level - 4 * bound
    else:
        faint, nothing = FAINT * level, 0.0
    axis_N = torch.linspace(-bound, bound, fine + 1, dtype=torch.float64).float()
    rough = [axis_N[::2]] * 3
    in_ball_XYZ = _radius(rough) <= bound
    coarse_XYZ = _query(final, rough, in_ball_XYZ, nothing)
    found_XYZ = coarse_XYZ >= faint
    if not found_XYZ.any():
        raise empty(final, level, float(coarse_XYZ.max()))
    near_XYZ = max_pool3d(found_XYZ[None].float(), 3, stride=1, padding=1)[0].bool()
    low_3, high_3 = near_XYZ.nonzero().amin(0), near_XYZ.nonzero().amax(0)
    box = [slice(int(low), int(high) + 1) for low, high in zip(low_3, high_3, strict=True)]
    # A coarse node speaks for itself and for the fine nodes up to the next one; the last has no next.
    wanted_XYZ = near_XYZ[tuple(box)]
    for dim in range(3):
        wanted_XYZ = wanted_XYZ.repeat_interleave(2, dim)
    axes = [axis_N[2 * part.start : 2 * part.stop] for part in box]
    wanted_XYZ = wanted_XYZ[tuple(slice(len(axis)) for axis in axes)]
    solidity_XYZ = _query(final, axes, wanted_XYZ, nothing)
    # Cut by the ball: the level surface then runs along it, whatever lies beyond.
    for x, plane_YZ in zip(axes[0].split(1), solidity_XYZ, strict=True):
        depth_YZ = bound - _radius([x, *axes[1:]])[0]
        within_YZ = (
            level + depth_YZ
            if final.scene.quantity == "distance"
            else (level * (1 + depth_YZ / spacing)).clamp(min=0)
        )
        torch.minimum(plane_YZ, within_YZ, out=plane_YZ)
    return Grid(
        np.pad(
            solidity_XYZ.numpy(), 1, constant_values=nothing
        ),  # a border of nothing closes what would end at the box
        np.array([float(axis[0]) for axis in axes]) - spacing,
        spacing,
        int(in_ball_XYZ.sum()) + int(wanted_XYZ.sum()),
    )


def _radius(axes: list[Tensor]) -> Tensor:
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    return (x * x + y * y + z * z).sqrt()


def _query(final: Final, axes: list[Tensor], wanted_XYZ: Tensor, nothing: float) -> Tensor:
    """Solidity at the wanted nodes of a lattice, on the CPU; `nothing` at the others."""
    solidity_XYZ = torch.full(wanted_XYZ.shape, nothing)
    for x, plane_YZ, wanted_YZ in zip(axes[0], solidity_XYZ, wanted_XYZ, strict=True):
        for index_n2 in wanted_YZ.nonzero().split(CHUNK):
            y, z = index_n2.unbind(-1)
            points_n3 = torch.stack([x.expand(len(y)), axes[1][y], axes[2][z]], -1)
            found_1n = final.scene.solidity(final.params, points_n3[None].to(final.device))
            plane_YZ[y, z] = found_1n[0].cpu()
    return solidity_XYZ


def empty(final: Final, level: float, highest: float) -> UserError:
    """What is told of a scene that nowhere reaches the level."""
    told = f"{final.folder.id} has an empty surface"
    if final.scene.quantity == "distance":
        return UserError(f"{told}: no point is inside, the nearest is {-highest:.3g} away")
    return UserError(f"{told}: its highest density is {highest:.3g}, below the threshold {level:.3g}")


def level_surface(final: Final, grid: Grid, level: float) -> trimesh.Trimesh:
    """The surface where the solidity is `level`, in the world's frame and units, facing outwards."""
    if grid.solidity_XYZ.max() <= level:
        raise empty(final, level, float(grid.solidity_XYZ.max()))
    return triangles(grid, level)


def triangles(grid: Grid, level: float) -> trimesh.Trimesh:
    """The surface at `level` of a grid that goes beyond it."""
    vertices_N3, faces_F3, _, _ = marching_cubes(grid.solidity_XYZ, level, gradient_direction="ascent")
    mesh = trimesh.Trimesh(grid.origin_3 + grid.spacing * vertices_N3, faces_F3, process=False)
    mesh.merge_vertices(digits_vertex=9)
    mesh.update_faces(mesh.nondegenerate_faces())
    mesh.remove_unreferenced_vertices()
    return mesh


def largest_components(mesh: trimesh.Trimesh, keep: int | None) -> tuple[trimesh.Trimesh, int]:
    """The `keep` connected parts of the largest area, all for None; and how many there were.

    The wall of a hollow is a part of its own.
    """
    label_F = trimesh.graph.connected_component_labels(mesh.face_adjacency, node_count=len(mesh.faces))
    area_K = np.bincount(label_F, weights=mesh.area_faces)
    if keep is not None and keep < len(area_K):
        kept = np.argsort(-area_K, kind="stable")[:keep]
        mesh.update_faces(np.isin(label_F, kept))
        mesh.remove_unreferenced_vertices()
    return mesh, len(area_K)
