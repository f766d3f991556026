"""A field's level surface as a triangle mesh: density on a grid that is fine where the object is, then
marching cubes (Lorensen and Cline 1987, in Lewiner's variant).

Only the ball of radius `bound` counts, which is all that the renderer looks at.
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

FINEST = 256  # cells along an axis, unless asked for more
FAINT = 0.1  # of the threshold: what the coarse grid takes for a sign of something
OUTLINE = 4  # pixels of an outline for one of the scene's own
CHUNK = 2**18  # points of one query


@dataclass(frozen=True)
class Grid:
    """Densities at the nodes of a box of the cube: node (i, j, k) is at origin_3 + spacing · (i, j, k)."""

    density_XYZ: np.ndarray
    origin_3: np.ndarray
    spacing: float
    queried: int  # nodes whose density was computed, of both grids


def default_resolution(final: Final) -> int:
    """Two cells for each cell of the hash grid's finest level, which holds nothing finer; at most FINEST."""
    return min(FINEST, 2 * final.scene.field.grid.resolutions_L[-1])


@torch.no_grad()
def silhouette_threshold(final: Final) -> tuple[float, float]:
    """The density whose level surface has the outlines of the run's evaluation views, and how well: the
    intersection over union of the pixels it covers with those that let at most half of the light through.

    A surface of level T covers a pixel if the density reaches T along its ray. UserError where no pixel of
    any view takes half of the light: there is no outline to go by.
    """
    cameras = evaluation(final.spec.config.views)
    peaks, opaque = [], []
    for v in range(len(cameras)):
        channels = final.scene.field.channels
        out = final.scene.render(
            final.params,
            cameras[v : v + 1],
            torch.zeros(1, channels),
            None,
            OUTLINE * final.scene.cfg.resolution,
        )
        density_PS, _ = final.scene.field.query(final.params, out.points_RPS3.flatten(1, 2))
        peaks.append(density_PS.unflatten(1, out.points_RPS3.shape[1:3])[0].amax(-1))
        opaque.append(out.opacity_RHW.flatten() >= 0.5)
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
def density_grid(final: Final, threshold: float, resolution: int) -> Grid:
    """Densities near everything that may be denser than `threshold`, on a grid of `resolution` cells a side.

    A grid of half the resolution finds where that is; the rest of the box counts as empty. UserError where it
    is empty everywhere.
    """
    bound = final.scene.cfg.bound
    coarse = -(-resolution // 2)
    fine = 2 * coarse
    axis_N = torch.linspace(-bound, bound, fine + 1, dtype=torch.float64).float()
    rough = [axis_N[::2]] * 3
    in_ball_XYZ = _radius(rough) <= bound
    coarse_XYZ = _query(final, rough, in_ball_XYZ)
    found_XYZ = coarse_XYZ >= FAINT * threshold
    if not found_XYZ.any():
        raise empty(final, threshold, float(coarse_XYZ.max()))
    near_XYZ = max_pool3d(found_XYZ[None].float(), 3, stride=1, padding=1)[0].bool()
    low_3, high_3 = near_XYZ.nonzero().amin(0), near_XYZ.nonzero().amax(0)
    box = [slice(int(low), int(high) + 1) for low, high in zip(low_3, high_3, strict=True)]
    # A coarse node speaks for itself and for the fine nodes up to the next one; the last has no next.
    wanted_XYZ = near_XYZ[tuple(box)]
    for dim in range(3):
        wanted_XYZ = wanted_XYZ.repeat_interleave(2, dim)
    axes = [axis_N[2 * part.start : 2 * part.stop] for part in box]
    wanted_XYZ = wanted_XYZ[tuple(slice(len(axis)) for axis in axes)]
    density_XYZ = _query(final, axes, wanted_XYZ)
    spacing = 2 * bound / fine
    # Cut by the ball: the level surface then runs along it, whatever lies beyond.
    for x, plane_YZ in zip(axes[0].split(1), density_XYZ, strict=True):
        within_YZ = threshold * (1 + (bound - _radius([x, *axes[1:]])[0]) / spacing)
        torch.minimum(plane_YZ, within_YZ.clamp(min=0), out=plane_YZ)
    return Grid(
        np.pad(density_XYZ.numpy(), 1),  # a border of nothing closes what would end at the box
        np.array([float(axis[0]) for axis in axes]) - spacing,
        spacing,
        int(in_ball_XYZ.sum()) + int(wanted_XYZ.sum()),
    )


def _radius(axes: list[Tensor]) -> Tensor:
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    return (x * x + y * y + z * z).sqrt()


def _query(final: Final, axes: list[Tensor], wanted_XYZ: Tensor) -> Tensor:
    """Densities at the wanted nodes of a lattice, on the CPU; 0 at the others."""
    density_XYZ = torch.zeros(wanted_XYZ.shape)
    for x, plane_YZ, wanted_YZ in zip(axes[0], density_XYZ, wanted_XYZ, strict=True):
        for index_n2 in wanted_YZ.nonzero().split(CHUNK):
            y, z = index_n2.unbind(-1)
            points_n3 = torch.stack([x.expand(len(y)), axes[1][y], axes[2][z]], -1)
            found_1n, _ = final.scene.field.query(final.params, points_n3[None].to(final.device))
            plane_YZ[y, z] = found_1n[0].cpu()
    return density_XYZ


def empty(final: Final, threshold: float, highest: float) -> UserError:
    """What is told of a field that nowhere reaches the threshold."""
    return UserError(
        f"{final.folder.id} has an empty surface: its highest density is {highest:.3g}, below the threshold "
        f"{threshold:.3g}"
    )


def level_surface(final: Final, grid: Grid, threshold: float) -> trimesh.Trimesh:
    """The surface where the density is `threshold`, in the world's frame and units, facing outwards."""
    if grid.density_XYZ.max() <= threshold:
        raise empty(final, threshold, float(grid.density_XYZ.max()))
    vertices_N3, faces_F3, _, _ = marching_cubes(grid.density_XYZ, threshold, gradient_direction="ascent")
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
