"""Colours of a mesh's vertices, from pictures of the object.

A prior's autoencoder decodes pictures, not points: a latent has no colour by itself. So the object is
rendered from all around, the renders are decoded, and each vertex takes its colour from those that see it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from harness.guidance.prior import Guidance
from harness.objects.final import Final, latents
from harness.objects.turntable import in_camera
from harness.scene.cameras import Cameras, make, rays

AZIMUTHS = 12  # of a ring
STEEPEST = 80.0  # degrees of elevation: above, azimuth means little
GRAZING = 0.2  # cosine to the surface under which a picture does not count
OPAQUE = 0.5  # a pixel that lets more light through shows the background


@dataclass(frozen=True)
class VertexColours:
    """rgb_N3 in [0, 1] as displays take it (sRGB); `seen`: share of vertices that a picture shows;
    `guess_error`: what the way to the others' colours errs by, on the mean, where a picture shows better;
    `views`: how many pictures."""

    rgb_N3: np.ndarray
    seen: float
    guess_error: float
    views: int


def cameras_around(final: Final) -> Cameras:
    """Rings at the lowest, middle and highest elevation that the run was trained at: beyond them nobody ever
    looked at it."""
    config = final.spec.config
    low, high = (max(-STEEPEST, min(STEEPEST, e)) for e in config.camera.elevation)
    elevations = sorted({low, (low + high) / 2, high})
    turn = [360.0 * n / AZIMUTHS for n in range(AZIMUTHS)]
    each_elevation, each_azimuth = map(list, zip(*product(elevations, turn), strict=True))
    return make(each_azimuth, each_elevation, config.views.distance, config.views.fov)


@torch.no_grad()
def vertex_colours(
    final: Final, prior: Guidance, vertices_N3: np.ndarray, normals_N3: np.ndarray
) -> VertexColours:
    """The colours of vertices with unit normals, in the world's frame.

    A vertex's colour is the mean over the pictures that see it, weighted by the squared cosine between its
    normal and the way to the camera. A picture sees it where it is no deeper than what the picture's pixel
    shows, by one sample of the run's rays at most. A vertex that none sees takes the latent half a sample
    beneath it, through a linear map to colours that is fitted to the same pictures.
    """
    points_N3, facing_N3 = (
        torch.tensor(each, dtype=torch.float32, device=final.device) for each in (vertices_N3, normals_N3)
    )
    cameras = cameras_around(final)
    x_VCHW = latents(final, prior, cameras)
    images_VCHW = prior.decode(x_VCHW)
    slack = final.scene.depth_step
    sum_N3, weight_N = torch.zeros_like(points_N3), torch.zeros(len(points_N3), device=final.device)
    opacity_VHW = []
    for v in range(len(cameras)):
        camera, side = cameras[v : v + 1], prior.image_size
        seen = final.scene.surface(final.params, camera, side)
        place_N2, away_N, towards_N3 = project(camera, points_N3)
        maps_NC = look_up(
            torch.stack([seen.depth_P, seen.opacity_P]).view(2, side, side), place_N2, "nearest"
        )
        cosine_N = (facing_N3 * towards_N3).sum(-1)
        counts_N = (cosine_N > GRAZING) & (maps_NC[:, 1] >= OPAQUE) & (away_N <= maps_NC[:, 0] + slack)
        share_N = cosine_N.square() * counts_N
        sum_N3 += share_N[:, None] * look_up(images_VCHW[v], place_N2, "bilinear")
        weight_N += share_N
        opacity_VHW.append(seen.opacity_P.view(side, side))
    map_D3 = _linear_map(x_VCHW, images_VCHW, torch.stack(opacity_VHW))
    _, own_1NC = final.scene.query(final.params, (points_N3 - slack / 2 * facing_N3)[None])
    guess_N3 = (_with_one(own_1NC[0]) @ map_D3).clamp(0, 1)
    is_seen_N = weight_N > 0
    rgb_N3 = torch.where(is_seen_N[:, None], sum_N3 / weight_N.clamp(min=1e-9)[:, None], guess_N3)
    error = (guess_N3 - rgb_N3)[is_seen_N].abs().sum() / (3 * is_seen_N.sum().clamp(min=1))
    return VertexColours(rgb_N3.cpu().numpy(), float(is_seen_N.float().mean()), float(error), len(cameras))


def project(camera: Cameras, points_N3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where one camera has points: place_N2 in its picture (right and down, −1…1), distance away_N, and unit
    vectors towards it."""
    origin_3 = rays(camera, 1, 1, points_N3.device)[0][0, 0]
    offset_N3 = origin_3 - points_N3
    away_N = offset_N3.norm(dim=-1)
    right_N, up_N, back_N = in_camera(camera, -offset_N3).unbind(-1)
    tangent = float(torch.deg2rad(camera.fov_R[0] / 2).tan())
    place_N2 = torch.stack([right_N, -up_N], -1) / (-back_N * tangent)[:, None]
    return place_N2, away_N, offset_N3 / away_N[:, None]


def look_up(maps_CHW: Tensor, place_N2: Tensor, mode: str) -> Tensor:
    """What maps show at places of a picture (`project`), [N, C]."""
    found = grid_sample(
        maps_CHW[None], place_N2[None, None], mode=mode, align_corners=False, padding_mode="border"
    )
    return found[0, :, 0].T


def _linear_map(x_VCHW: Tensor, images_VCHW: Tensor, opacity_VHW: Tensor) -> Tensor:
    """[C + 1, 3]: the least squares map from latents (and 1) to the colours of the patches they are decoded
    to, over what is opaque."""
    patch = images_VCHW.shape[-1] // x_VCHW.shape[-1]
    colour_VCHW, opacity_VHW = avg_pool2d(images_VCHW, patch), avg_pool2d(opacity_VHW, patch)
    is_opaque_VHW = opacity_VHW >= OPAQUE
    known_MD = _with_one(x_VCHW.movedim(1, -1)[is_opaque_VHW]).double().cpu()
    colour_M3 = colour_VCHW.movedim(1, -1)[is_opaque_VHW].double().cpu()
    return torch.linalg.lstsq(known_MD, colour_M3, driver="gelsd").solution.to(x_VCHW)


def _with_one(x_MC: Tensor) -> Tensor:
    return torch.cat([x_MC, torch.ones_like(x_MC[..., :1])], -1)
