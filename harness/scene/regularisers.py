"""Regularisers of a field, each one number per run; their weights are settings of the scene."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from harness.scene.contract import Params, mean_by_run
from harness.scene.renderer import Render

if TYPE_CHECKING:
    from harness.config import SceneConfig
    from harness.scene.volume import VolumeScene


def entropy(opacity_RHW: Tensor) -> Tensor:
    """Mean binary entropy of the pixels' opacity in nats, [R]: lowest where each ray is full or empty.

    Source: stable-dreamfusion's opacity entropy.
    """
    a_RHW = opacity_RHW.clamp(1e-5, 1 - 1e-5)
    return mean_by_run(-(a_RHW * a_RHW.log() + (1 - a_RHW) * (1 - a_RHW).log()))


def sparsity(opacity_RHW: Tensor) -> Tensor:
    """Mean of sqrt(opacity² + .01) over pixels, [R] (threestudio's and Dream Fields' preference for empty
    space)."""
    return mean_by_run((opacity_RHW.square() + 0.01).sqrt())


def orientation(scene: VolumeScene, params: Params, render: Render) -> Tensor:
    """Mean over rays of Σ_s w_s max(0, n_s·d)², [R]: surfaces should face the camera (Ref-NeRF, DreamFusion
    §3.2).

    The weights carry no gradient, as in DreamFusion.
    """
    points_RN3 = render.points_RPS3.flatten(1, 2)
    normals_RN3 = scene.normals(params, points_RN3, 0.01 * scene.bound)
    normals_RPS3 = normals_RN3.unflatten(1, render.points_RPS3.shape[1:3])
    x, y, z = (normals_RPS3 * render.directions_RP3[:, :, None]).unbind(-1)
    away_RPS = (x + y + z).clamp(min=0).square()
    return mean_by_run((render.weights_RPS.detach() * away_RPS).sum(-1))


def variation(grid: Tensor, dims: int) -> Tensor:
    """Mean squared difference of neighbours along each of a grid's last `dims` dimensions, summed, [R]: total
    variation as Plenoxels has it (arXiv 2112.05131, eq. 3), squared, so that it is smooth."""
    return sum(
        (mean_by_run(grid.diff(dim=dim).square()) for dim in range(-dims, 0)), grid.new_zeros(len(grid))
    )


def of_opacity(cfg: SceneConfig, opacity_RHW: Tensor) -> dict[str, Tensor]:
    """Those of them that the config asks for and that opacity alone tells, weighted, by name, each [R]."""
    terms = {}
    if cfg.entropy > 0:
        terms["entropy"] = cfg.entropy * entropy(opacity_RHW)
    if cfg.sparsity > 0:
        terms["sparsity"] = cfg.sparsity * sparsity(opacity_RHW)
    return terms


def penalties(scene: VolumeScene, params: Params, render: Render) -> dict[str, Tensor]:
    """The weighted regularisers that the config asks for, by name, each [R]; their sum joins the loss."""
    cfg, terms = scene.cfg, of_opacity(scene.cfg, render.opacity_RHW)
    if cfg.orientation > 0:
        terms["orientation"] = cfg.orientation * orientation(scene, params, render)
    return terms
