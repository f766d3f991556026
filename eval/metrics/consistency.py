"""3D consistency by the scene's own geometry: do neighbouring views show the same points in the same colours?

For two neighbours of the ring, in both directions: every pixel of one view that hits the object is taken to
its point by the scene's own depth, and looked up in the other view. It counts where the other view sees it,
which is where that view hits the object at the point's own distance, within one step of its depth. Networks
that estimate depth and match features (MEt3R, Asim et al., CVPR 2025) are not needed: cameras and depth are
exact.

- Pixels: root mean square difference of the two colours, in 0…1.
- Features: 1 − cos of the scorer's features of the view, and of the view with what the neighbour shows of it.
- Covered: the share of a view's pixels of the object that the neighbour shows.

All are means over pairs. Views are compared at `SIDE` pixels at most. A prior's autoencoder decodes each view
by itself, and resampling blurs: ground truth, warped by its own geometry, says how little a right object
differs. An object of less contrast differs less: read it beside `contrast`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, max_pool2d

from eval.metric import FEATURES, PARAMETERS, RING, VIEWS, Column, Reference, RunMetric, Values
from eval.metrics.shapes import Solid
from eval.sources.load import RunRecord
from harness.config import UserError
from harness.objects.colours import look_up, project
from harness.objects.final import NoSides, load
from harness.scene.cameras import Cameras, evaluation, rays

SIDE = 96
HIT = 0.5  # opacity
MARCHES, TOUCH = 64, 1e-2  # steps of sphere tracing, and how near its end is to a surface

Embed = Callable[[np.ndarray], Tensor]


@dataclass(frozen=True)
class Ring:
    """V views of a closed ring: their cameras, colours in 0…1, and of every pixel the distance of what it
    shows and whether that is the object; `slack`: world units that distances may err by."""

    cameras: Cameras
    rgb_V3HW: Tensor
    depth_VHW: Tensor
    hit_VHW: Tensor
    slack: float

    @classmethod
    def within(
        cls, cameras: Cameras, rgb_V3HW: Tensor, depth_VHW: Tensor, opacity_VHW: Tensor, slack: float
    ) -> Ring:
        """The object is where a pixel and its neighbours let at most half of the light through."""
        least_VHW = -max_pool2d(-opacity_VHW[:, None], 3, stride=1, padding=1)[:, 0]
        return cls(cameras, rgb_V3HW, depth_VHW, least_VHW >= HIT, slack)


@dataclass(frozen=True)
class Consistency:
    """Means over pairs of neighbours, both ways."""

    pixels: float
    features: float
    covered: float


def resized(images_VHWC: np.ndarray, side: int) -> Tensor:
    """uint8 pictures as floats in 0…1, [V, 3, side, side], averaged over areas."""
    return adaptive_avg_pool2d(torch.from_numpy(images_VHWC / 255.0).float().movedim(-1, 1), side)


def warp(ring: Ring, to: int, from_: int) -> tuple[Tensor, Tensor]:
    """What view `from_` shows of the points of view `to`: colours [3, H, W] in the place of those of `to`,
    and bool [H, W] where it shows them."""
    side = ring.rgb_V3HW.shape[-1]
    origins_1P3, directions_1P3 = rays(ring.cameras[to : to + 1], side, side)
    points_P3 = origins_1P3[0] + ring.depth_VHW[to].flatten()[:, None] * directions_1P3[0]
    place_P2, away_P, _ = project(ring.cameras[from_ : from_ + 1], points_P3)
    seen_P3 = look_up(ring.rgb_V3HW[from_], place_P2, "bilinear")
    maps_2HW = torch.stack([ring.hit_VHW[from_].float(), ring.depth_VHW[from_]])
    hit_P, depth_P = look_up(maps_2HW, place_P2, "nearest").T
    shown_P = ring.hit_VHW[to].flatten() & (hit_P > 0) & (place_P2.abs() <= 1).all(-1)
    shown_P &= (away_P - depth_P).abs() <= ring.slack
    return seen_P3.T.view(3, side, side), shown_P.view(side, side)


def consistency(ring: Ring, embed: Embed) -> Consistency:
    """Of a ring; UserError where no two neighbours show a point in common."""
    V = len(ring.cameras)
    errors, covered, own, mixed = [], [], [], []
    for to in range(V):
        for from_ in ((to + 1) % V, (to - 1) % V):
            seen_3HW, shown_HW = warp(ring, to, from_)
            if not shown_HW.any():
                continue
            view_3HW = ring.rgb_V3HW[to]
            errors.append(float((view_3HW - seen_3HW)[:, shown_HW].square().mean().sqrt()))
            covered.append(float(shown_HW.sum() / ring.hit_VHW[to].sum()))
            own.append(view_3HW)
            mixed.append(torch.where(shown_HW, seen_3HW, view_3HW))
    if not errors:
        raise UserError("no two neighbouring views show a point in common")
    ours_ND, theirs_ND = (embed(_pictures(each)) for each in (own, mixed))
    features = float((1 - (ours_ND * theirs_ND).sum(1)).mean())
    return Consistency(float(np.mean(errors)), features, float(np.mean(covered)))


def _pictures(images: list[Tensor]) -> np.ndarray:
    return (torch.stack(images) * 255).round().to(torch.uint8).movedim(1, -1).numpy()


@torch.no_grad()
def ring_of_run(run: RunRecord) -> Ring:
    """A run's stored views at the last step, and the geometry of its parameters. UserError where it has none,
    NoSides where there can be none."""
    final = load(run.folder)
    count, images_VHWC = run.config.views.azimuths, run.views(run.total)
    side = min(SIDE, images_VHWC.shape[1])
    cameras = evaluation(run.config.views)[:count]
    seen = [final.scene.surface(final.params, cameras[v : v + 1], side) for v in range(count)]
    opacity_VHW, depth_VHW = (
        torch.stack([getattr(each, name).view(side, side).cpu() for each in seen])
        for name in ("opacity_P", "depth_P")
    )
    slack = max(final.scene.depth_step, _pixel(cameras, side))
    return Ring.within(cameras, resized(images_VHWC[:count], side), depth_VHW, opacity_VHW, slack)


def ring_of_truth(solid: Solid, images_VHWC: np.ndarray, cameras: Cameras) -> Ring:
    """Ground-truth views, and the geometry of their solid by sphere tracing (Hart 1996)."""
    side = min(SIDE, images_VHWC.shape[1])
    origins_VP3, directions_VP3 = (each.double().numpy() for each in rays(cameras, side, side))
    depth_VP = np.full(origins_VP3.shape[:2], float(cameras.distance_R[0]) - 1.0)
    gap_VP = np.zeros_like(depth_VP)
    for _ in range(MARCHES):
        points_VP3 = origins_VP3 + depth_VP[..., None] * directions_VP3
        gap_VP = solid.distance(points_VP3.reshape(-1, 3)).reshape(depth_VP.shape)
        depth_VP += np.clip(gap_VP, -0.1, 0.1)
    shape = (len(cameras), side, side)
    opacity_VHW, depth_VHW = (
        torch.from_numpy(each).float().view(shape) for each in (np.abs(gap_VP) < TOUCH, depth_VP)
    )
    rgb_V3HW = resized(images_VHWC[: len(cameras)], side)
    return Ring.within(cameras, rgb_V3HW, depth_VHW, opacity_VHW, _pixel(cameras, side))


def _pixel(cameras: Cameras, side: int) -> float:
    """Two pixels' width at the middle of the scene."""
    tangent = torch.deg2rad(cameras.fov_R[0] / 2).tan()
    return float(2 * cameras.distance_R[0] * tangent * 2 / side)


class ConsistencyOfRuns(RunMetric):
    """At the last step. Failed runs, and what has no ring or no depth, are left out."""

    caption = "3D consistency of neighbouring views at the final step [95 % interval over prompts]"
    columns = (
        Column("pixels", "pixels", better="lower", digits=3),
        Column("features", "features 1 − cos", better="lower", digits=3),
        Column("covered", "covered, %", "%"),
    )
    needs = (VIEWS, FEATURES, RING, PARAMETERS)
    slow = True
    on_request = True
    remarks = ("An object of less contrast differs less from view to view: read it beside `signatures`.",)
    lacking = "consistency needs rings of views of scenes with sides, and their parameters of the last step"

    def of_run(self, run: RunRecord) -> Values | None:
        """The fields of `Consistency`."""
        try:
            return asdict(consistency(ring_of_run(run), self.runs.clip.embed_images))
        except NoSides as error:
            self.runs.note(f"left out of {self.name}: {error}")
            return None

    @cached_property
    def truth(self) -> pd.DataFrame:
        """Of the ground truth: prompt, seed and the fields of `Consistency`; empty where there is none."""
        views, rows = self.runs[0].config.views, []
        cameras = evaluation(views)[: views.azimuths]
        for prompt, solid in self.runs.solids.items() if views.azimuths > 2 else ():
            ring = ring_of_truth(solid, self.runs.truth[prompt], cameras)
            rows.append(
                {"prompt": prompt, "seed": 0} | asdict(consistency(ring, self.runs.clip.embed_images))
            )
        return pd.DataFrame(rows)

    def references(self) -> list[Reference]:
        """Ground truth, where there is any."""
        return self.reference("ground truth", self.truth)
