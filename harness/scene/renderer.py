"""Volume rendering of R fields, each from its own camera (NeRF, arXiv 2003.08934, eq. 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.scene.cameras import Cameras, rays
from harness.scene.contract import Params, by_run

if TYPE_CHECKING:
    from harness.scene.volume import VolumeScene


@dataclass(frozen=True)
class Render:
    """What R cameras see; P = H·W rays of S samples each.

    depth_RHW is the sum of weight times distance, in world units: divide by opacity for the mean of what was
    hit. directions_RP3 and points_RPS3 are the rays' unit directions and their samples, without a gradient.
    """

    x_RCHW: Tensor
    opacity_RHW: Tensor
    weights_RPS: Tensor
    depth_RHW: Tensor
    directions_RP3: Tensor
    points_RPS3: Tensor


def composite(
    field_RPSO: Tensor, depth_RPS: Tensor, delta_RP: Tensor, background_RC: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Volume rendering in plain torch: x_RCP, weights_RPS, the light left behind rest_RP, and depth_RP.

    field_RPSO: density, then latent, of the samples; delta_RP: length of a sample's stretch of its ray.
    """
    optical_RPS = field_RPSO[..., 0] * delta_RP[..., None]
    past_RPS = optical_RPS.cumsum(-1)
    weights_RPS = torch.exp(optical_RPS - past_RPS) * -torch.expm1(-optical_RPS)
    rest_RP = torch.exp(-past_RPS[..., -1])
    x_RPC = (weights_RPS[..., None] * field_RPSO[..., 1:]).sum(2)
    x_RPC = x_RPC + rest_RP[..., None] * background_RC[:, None]
    return x_RPC.transpose(1, 2), weights_RPS, rest_RP, (weights_RPS * depth_RPS).sum(-1)


@dataclass(frozen=True)
class Samples:
    """Where R cameras' rays are looked at: S points of each of P rays, at depth_RPS along directions_RP3,
    each anywhere in its stretch of length delta_RP. One that is not to be computed lies outside the cube."""

    directions_RP3: Tensor
    depth_RPS: Tensor
    delta_RP: Tensor
    points_RPS3: Tensor


def sample_rays(
    bound: float,
    samples: int,
    cameras: Cameras,
    jitter_RPS: Tensor | None,
    H: int,
    W: int,
    device: torch.device,
    kept: Callable[[Tensor], Tensor] | None = None,
) -> Samples:
    """The samples of every ray where it crosses the ball of radius `bound`: see `render`."""
    origins_RP3, directions_RP3 = rays(cameras, H, W, device)
    ox, oy, oz = origins_RP3.unbind(-1)
    dx, dy, dz = directions_RP3.unbind(-1)
    along_RP = -(ox * dx + oy * dy + oz * dz)
    nearest_RP = ox * ox + oy * oy + oz * oz - along_RP * along_RP
    hit_RP = (nearest_RP < bound * bound) & (along_RP + bound > 0)
    half_RP = (bound * bound - nearest_RP).clamp(min=0).sqrt()
    near_RP = (along_RP - half_RP).clamp(min=0)
    samples = samples if jitter_RPS is None else jitter_RPS.shape[2]
    delta_RP = (along_RP + half_RP - near_RP).clamp(min=0) / samples
    place_S = torch.arange(samples, device=device, dtype=torch.float32)
    place_RPS = place_S + (0.5 if jitter_RPS is None else jitter_RPS.to(device))
    depth_RPS = near_RP[..., None] + delta_RP[..., None] * place_RPS
    points_RPS3 = origins_RP3[:, :, None] + directions_RP3[:, :, None] * depth_RPS[..., None]
    # A point outside the cube has no density and is not computed.
    seen_RPS = hit_RP[..., None]
    if kept:
        seen_RPS = seen_RPS & kept(points_RPS3.flatten(1, 2)).view_as(depth_RPS)
    points_RPS3 = torch.where(seen_RPS[..., None], points_RPS3, 2 * bound)
    return Samples(directions_RP3, depth_RPS, delta_RP, points_RPS3)


def render(
    scene: VolumeScene,
    params: Params,
    cameras: Cameras,
    background_RC: Tensor,
    jitter_RPS: Tensor | None,
    H: int,
    W: int,
    kept: Callable[[Tensor], Tensor] | None = None,
) -> Render:
    """Render run r's field from camera r, in the latent space the field lives in.

    background_RC: latent behind the field; a learned background in `params` takes its place. jitter_RPS in
    [0, 1): place of each sample in its stretch of the ray (stratified sampling), None: the middle, config's
    number of them. A ray is sampled where it crosses the ball of radius `bound`; one that misses it shows the
    background. Where `kept` says False of a point [R, N, 3], there is nothing. Differentiable in the
    parameters, for one backward pass.
    """
    device = next(iter(params.values())).device
    at = sample_rays(scene.bound, scene.cfg.samples, cameras, jitter_RPS, H, W, device, kept)
    field_RNO = scene.density_latent(params, at.points_RPS3.flatten(1, 2))
    field_RPSO = field_RNO.unflatten(1, at.points_RPS3.shape[1:3])
    background_RC = params.get("background", background_RC.to(device))
    if scene.fused:
        parts = scene.fused.composite(field_RPSO, at.depth_RPS, at.delta_RP, background_RC)
    else:
        parts = by_run(composite, field_RPSO, at.depth_RPS, at.delta_RP, background_RC)
    x_RCP, weights_RPS, rest_RP, depth_RP = parts
    return Render(
        x_RCHW=x_RCP.unflatten(2, (H, W)),
        opacity_RHW=(1 - rest_RP).unflatten(1, (H, W)),
        weights_RPS=weights_RPS,
        depth_RHW=depth_RP.unflatten(1, (H, W)),
        directions_RP3=at.directions_RP3,
        points_RPS3=at.points_RPS3,
    )
