"""What a camera sees of a field as a surface: how far it is, and which way it faces."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.scene.cameras import Cameras
from harness.scene.field import Params
from harness.scene.generator import FieldGenerator
from harness.scene.regularisers import normals
from harness.scene.renderer import Render

FAINT = 0.01  # share of a ray's light that a sample must take for its normal to count
STEP = 0.02  # of the bound: half width of the differences that normals are taken from


@dataclass(frozen=True)
class Surface:
    """P = side² pixels of one camera. depth_P, in world units, is the mean of what a ray hit, and points_P3
    are there; where opacity_P is near zero they mean nothing."""

    opacity_P: Tensor
    depth_P: Tensor
    points_P3: Tensor
    render: Render


@torch.no_grad()
def surface(scene: FieldGenerator, params: Params, camera: Cameras, side: int) -> Surface:
    """The surface that one camera sees of one field, side × side pixels."""
    out = scene.render(params, camera, torch.zeros(1, scene.field.channels), None, side)
    weights_PS, opacity_P = out.weights_RPS[0], out.opacity_RHW[0].flatten()
    share_PS = weights_PS / weights_PS.sum(-1, keepdim=True).clamp(min=1e-6)
    points_PS3 = torch.where(weights_PS[..., None] > 0, out.points_RPS3[0], 0.0)
    return Surface(
        opacity_P=opacity_P,
        depth_P=out.depth_RHW[0].flatten() / opacity_P.clamp(min=1e-6),
        points_P3=(share_PS[..., None] * points_PS3).sum(1),
        render=out,
    )


def normals_at(scene: FieldGenerator, params: Params, points_P3: Tensor) -> Tensor:
    """Unit normals [P, 3] of one field at points."""
    return normals(scene.field, params, points_P3[None], STEP * scene.cfg.bound)[0]


@torch.no_grad()
def mean_normals(scene: FieldGenerator, params: Params, seen: Surface) -> Tensor:
    """Unit normals [P, 3]: the mean over each ray's samples, by the light they take (Ref-NeRF, arXiv
    2112.03907, section 4). In a field like fog, one normal at the mean depth is mostly chance."""
    weights_PS, points_PS3 = seen.render.weights_RPS[0], seen.render.points_RPS3[0]
    counts_PS = weights_PS > FAINT
    sum_P3 = torch.zeros_like(seen.points_P3)
    if counts_PS.any():
        weighted_n3 = weights_PS[counts_PS][:, None] * normals_at(scene, params, points_PS3[counts_PS])
        sum_P3.index_add_(0, counts_PS.nonzero()[:, 0], weighted_n3)
    return sum_P3 / sum_P3.norm(dim=-1, keepdim=True).clamp(min=1e-6)
