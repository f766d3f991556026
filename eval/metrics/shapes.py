"""Shapes against ground truth: a run's solid beside the solid that its caption describes.

A run's solid is where its density is at least that of the level surface whose outlines are its evaluation
views' (`harness.objects.mesh.silhouette_threshold`). Both solids are sampled at the centres of a grid of
`CELLS`³ cells over the cube [−1, 1]³, which every toy object fits.

- IoU: volume of the intersection over volume of the union.
- F-score at `TOLERANCE` world units (an object is 1.9 across): harmonic mean of the shares of either surface
  that lie within the tolerance of the other (Knapitsch et al. 2017). Surface: cells of the solid with a face
  to a cell outside.
- aligned: the same after the turn about the vertical, the scale (at most 15 %) and the shift (at most .2)
  that make the IoU largest; distillation has no reason to face the front, nor to fill the frame.
- silhouette IoU: of what the evaluation views see covered to at least a half, mean over the views.
- view error: root mean square difference of the decoded views and the ground truth's, in 0…1, at the smaller
  side of the two; the larger is averaged over areas.

Floor: the solid of another prompt of the suite. An empty solid has an IoU and an F-score of 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt
from torch.nn.functional import adaptive_avg_pool2d

from eval.metric import GROUND_TRUTH, PARAMETERS, SOLIDS, VIEWS, Column, Reference, RunMetric, Values
from eval.sources.load import RunRecord
from harness.config import UserError
from harness.objects.final import Final, NoSides, load
from harness.objects.mesh import OUTLINE, surface_level
from harness.scene.cameras import evaluation

CELLS, COARSE = 48, 24
TOLERANCE = 0.05
TURNS = 36
MOST_SCALE, MOST_SHIFT = 1.15, 0.2


class Solid(Protocol):
    """The solid that a caption describes."""

    def distance(self, points_N3: np.ndarray) -> np.ndarray:
        """Signed distance [N], negative inside."""
        ...

    def silhouettes(self, cameras_N4: np.ndarray, side: int) -> np.ndarray:
        """Bool [N, side, side] of what cameras in degrees and world units see covered."""
        ...


@dataclass(frozen=True)
class Fit:
    """How alike two solids are: as they are, and aligned, with the turn in degrees that aligns them best."""

    iou: float
    f_score: float
    aligned_iou: float
    aligned_f_score: float
    turn: float


@cache
def centres(cells: int) -> np.ndarray:
    """Centres [cells³, 3] of the grid's cells."""
    axis = (np.arange(cells) + 0.5) * 2 / cells - 1
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


def solid_of(
    solid: Solid,
    cells: int,
    turn: float = 0.0,
    scale: float = 1.0,
    shift: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0),
) -> np.ndarray:
    """A solid on the grid, bool [cells, cells, cells], turned (degrees), then scaled, then shifted."""
    c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    points_N3 = (centres(cells) - np.asarray(shift)) / scale @ rotation
    return (solid.distance(points_N3) <= 0).reshape((cells,) * 3)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two masks; 0 where both are empty."""
    union = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / union) if union else 0.0


def f_score(a_XYZ: np.ndarray, b_XYZ: np.ndarray) -> float:
    """F-score of the surfaces of two solids on one grid over [−1, 1]³."""
    if not a_XYZ.any() or not b_XYZ.any():
        return 0.0
    surfaces = [solid & ~np.asarray(binary_erosion(solid), dtype=bool) for solid in (a_XYZ, b_XYZ)]
    spacing = 2 / len(a_XYZ)
    to_a, to_b = (np.asarray(distance_transform_edt(~surface)) * spacing for surface in surfaces)
    precision = float((to_b[surfaces[0]] <= TOLERANCE).mean())
    recall = float((to_a[surfaces[1]] <= TOLERANCE).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def fit(found_XYZ: np.ndarray, solid: Solid) -> Fit:
    """What was found on the grid of `CELLS`, beside a solid."""
    truth = solid_of(solid, CELLS)
    plain = (iou(found_XYZ, truth), f_score(found_XYZ, truth))
    if not found_XYZ.any():
        return Fit(*plain, 0.0, 0.0, 0.0)
    scale = float(np.clip((found_XYZ.sum() / truth.sum()) ** (1 / 3), 1 / MOST_SCALE, MOST_SCALE))
    coarse = _halved(found_XYZ)
    middle, own = _middle(found_XYZ), _middle(truth)

    def placed(turn: float, cells: int) -> np.ndarray:
        c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
        turned = scale * np.array([c * own[0] - s * own[1], s * own[0] + c * own[1], own[2]])
        return solid_of(solid, cells, turn, scale, np.clip(middle - turned, -MOST_SHIFT, MOST_SHIFT))

    turns = [360 * k / TURNS for k in range(TURNS)]
    best = max(turns, key=lambda turn: iou(coarse, placed(turn, COARSE)))
    near = [best + step for step in (-5.0, -2.5, 0.0, 2.5, 5.0)]
    solids = {turn: placed(turn, CELLS) for turn in near}
    turn = max(near, key=lambda turn: iou(found_XYZ, solids[turn]))
    aligned = (iou(found_XYZ, solids[turn]), f_score(found_XYZ, solids[turn]))
    if aligned[0] < plain[0]:  # no turn, scale and shift of those tried helps
        return Fit(*plain, *plain, 0.0)
    return Fit(*plain, *aligned, turn % 360)


def _halved(solid_XYZ: np.ndarray) -> np.ndarray:
    n = len(solid_XYZ) // 2
    return solid_XYZ.reshape(n, 2, n, 2, n, 2).mean((1, 3, 5)) >= 0.5


def _middle(solid_XYZ: np.ndarray) -> np.ndarray:
    return centres(len(solid_XYZ))[solid_XYZ.ravel()].mean(0)


def view_error(views_VHWC: np.ndarray, truth_VHWC: np.ndarray) -> float:
    """Root mean square difference of pictures in 0…255, told in 0…1, at the smaller side of the two."""
    side = min(views_VHWC.shape[1], truth_VHWC.shape[1])
    views, truth = (
        adaptive_avg_pool2d(torch.from_numpy(each / 255.0).movedim(-1, 1), side).numpy()
        for each in (views_VHWC, truth_VHWC)
    )
    return float(np.sqrt(np.square(views - truth).mean()))


@torch.no_grad()
def solid_of_run(final: Final) -> np.ndarray:
    """A run's solid, bool [CELLS, CELLS, CELLS]; empty where no view has an outline."""
    try:
        level, _ = surface_level(final)
    except UserError:
        return np.zeros((CELLS,) * 3, dtype=bool)
    points_N3 = torch.from_numpy(centres(CELLS)).float().to(final.device)
    solidity_N = torch.cat(
        [final.scene.solidity(final.params, part[None])[0] for part in points_N3.split(2**17)]
    )
    inside_N = points_N3.norm(dim=1) <= final.scene.bound
    return ((solidity_N >= level) & inside_N).cpu().numpy().reshape((CELLS,) * 3)


@torch.no_grad()
def _outlines(final: Final, solid: Solid) -> float:
    cameras = evaluation(final.spec.config.views)
    side = OUTLINE * final.scene.cfg.resolution
    truth = solid.silhouettes(cameras.columns(), side)
    shares = []
    for v in range(len(cameras)):
        covered_P = final.scene.surface(final.params, cameras[v : v + 1], side).opacity_P >= 0.5
        shares.append(iou(covered_P.view(side, side).cpu().numpy(), truth[v]))
    return float(np.mean(shares))


class Shapes(RunMetric):
    """At the last step. Failed runs are misses; what has no field is left out."""

    caption = "Shapes at the final step against ground truth [95 % interval over prompts]"
    columns = (
        Column("iou", "IoU, %", "%", "higher"),
        Column("aligned_iou", "IoU aligned, %", "%", "higher"),
        Column("f_score", "F-score, %", "%", "higher"),
        Column("aligned_f_score", "F-score aligned, %", "%", "higher"),
        Column("silhouette_iou", "silhouette IoU, %", "%", "higher"),
        Column("view_error", "view error", better="lower", digits=3),
    )
    needs = (VIEWS, PARAMETERS, GROUND_TRUTH, SOLIDS)
    remarks = (
        "Aligned: after the turn about the vertical, the small scale and the shift that fit best. The solid "
        "is the level surface whose outlines are the run's own views'. The ground truth itself has 100.",
    )
    shown = ()
    miss = asdict(Fit(0.0, 0.0, 0.0, 0.0, 0.0)) | {"silhouette_iou": 0.0, "view_error": 1.0}
    slow = True
    lacking = "shapes need the solids of the prompts, and runs of a field: the toy world has both"

    def of_run(self, run: RunRecord) -> Values | None:
        """The fields of `Fit`, and what its views show of it; None where it has no solid."""
        try:
            final = load(run.folder)
        except NoSides:
            return None
        solid, truth_VHWC = self.runs.solids[run.prompt], self.runs.truth[run.prompt]
        return asdict(fit(solid_of_run(final), solid)) | {
            "silhouette_iou": _outlines(final, solid),
            "view_error": view_error(run.views(run.total), truth_VHWC),
        }

    @cached_property
    def floor(self) -> pd.DataFrame:
        """What the object of the prompt half a list away scores in a prompt's place (the next in a suite is
        often the same thing in other colours): prompt, seed and the fields of a fit."""
        solids = self.runs.solids
        names = list(solids)
        far = len(names) // 2
        return pd.DataFrame(
            {"prompt": one, "seed": 0} | asdict(fit(solid_of(solids[other], CELLS), solids[one]))
            for one, other in zip(names, names[far:] + names[:far], strict=True)
            if one != other
        )

    def references(self) -> list[Reference]:
        """Another prompt's object."""
        return self.reference("another prompt's (floor)", self.floor)
