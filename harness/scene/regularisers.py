"""Regularisers of a field, each one number per run; their weights are settings of the scene."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.scene.field import HashField, Params
from harness.scene.renderer import Render


def entropy(render: Render) -> Tensor:
    """Mean binary entropy of the pixels' opacity in nats, [R]: lowest where each ray is full or empty.

    Source: stable-dreamfusion's opacity entropy.
    """
    a_RHW = render.opacity_RHW.clamp(1e-5, 1 - 1e-5)
    return _mean(-(a_RHW * a_RHW.log() + (1 - a_RHW) * (1 - a_RHW).log()))


def sparsity(render: Render) -> Tensor:
    """Mean of sqrt(opacity² + .01) over pixels, [R] (threestudio's and Dream Fields' preference for empty
    space)."""
    return _mean((render.opacity_RHW.square() + 0.01).sqrt())


def normals(field: HashField, params: Params, x_RN3: Tensor, step: float) -> Tensor:
    """Unit normals [R, N, 3], against the density's gradient, from four differences of half width `step`.

    Differentiable in the parameters through first derivatives only, as the fused backends need.
    """
    signs_43 = torch.tensor([[1.0, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], device=x_RN3.device)
    gradient_RN3 = torch.zeros_like(x_RN3)
    for sign_3 in signs_43:
        density_RN, _ = field.query(params, x_RN3 + step * sign_3)
        gradient_RN3 = gradient_RN3 + density_RN[..., None] * (sign_3 / (4 * step))
    x, y, z = gradient_RN3.unbind(-1)
    return -gradient_RN3 / (x * x + y * y + z * z + 1e-12).sqrt()[..., None]


def orientation(field: HashField, params: Params, render: Render) -> Tensor:
    """Mean over rays of Σ_s w_s max(0, n_s·d)², [R]: surfaces should face the camera (Ref-NeRF, DreamFusion
    §3.2).

    The weights carry no gradient, as in DreamFusion.
    """
    normals_RPS3 = normals(field, params, render.points_RPS3.flatten(1, 2), 0.01 * field.cfg.bound).unflatten(
        1, render.points_RPS3.shape[1:3]
    )
    x, y, z = (normals_RPS3 * render.directions_RP3[:, :, None]).unbind(-1)
    away_RPS = (x + y + z).clamp(min=0).square()
    return _mean((render.weights_RPS.detach() * away_RPS).sum(-1))


def penalties(field: HashField, params: Params, render: Render) -> dict[str, Tensor]:
    """The weighted regularisers that the config asks for, by name, each [R]; their sum joins the loss."""
    cfg, terms = field.cfg, {}
    if cfg.entropy > 0:
        terms["entropy"] = cfg.entropy * entropy(render)
    if cfg.sparsity > 0:
        terms["sparsity"] = cfg.sparsity * sparsity(render)
    if cfg.orientation > 0:
        terms["orientation"] = cfg.orientation * orientation(field, params, render)
    return terms


def _mean(values: Tensor) -> Tensor:
    # Over all but the run dimension, one run at a time: a reduction over a whole pack may sum in another
    # order.
    return torch.stack([run.mean() for run in values.unbind(0)])
