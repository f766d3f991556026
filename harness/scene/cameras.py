"""Cameras on a sphere round the origin, and their rays.

World: right-handed, z up. A camera stands at distance·(cos el cos az, cos el sin az, sin el) and looks at the
origin; azimuth 0 is the front: it sees the +x face of an object, with +y to the right of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from harness.device import upload

if TYPE_CHECKING:
    from harness.config import CameraConfig, ViewsConfig

Each = list[float] | float


@dataclass(frozen=True)
class Cameras:
    """R cameras; float64 tensors of shape [R].

    Azimuth, elevation and the vertical field of view are in degrees, the distance in world units.
    """

    azimuth_R: Tensor
    elevation_R: Tensor
    distance_R: Tensor
    fov_R: Tensor

    def __len__(self) -> int:
        return self.azimuth_R.shape[0]

    def __getitem__(self, index: slice | Tensor | list[int]) -> Cameras:
        """The cameras of a slice or of a list of indices, as Cameras."""
        return self.map(lambda values: values[index])

    def expand(self, runs: int) -> Cameras:
        """One camera repeated for `runs` runs (an evaluation view of a whole pack)."""
        return self.map(lambda values: values.expand(runs))

    def map(self, call: Callable[[Tensor], Tensor]) -> Cameras:
        """The cameras with `call` applied to each of their tensors: another dtype, another device."""
        return Cameras(*map(call, self._values()))

    def columns(self) -> np.ndarray:
        """Azimuth, elevation, distance and field of view, float64 [R, 4]."""
        return torch.stack(self._values(), dim=1).cpu().double().numpy()

    def c2w(self) -> Tensor:
        """Camera to world, float64 [R,4,4]: its columns are right, up, backward and the camera's place (a
        camera looks along its −z, as in OpenGL)."""
        return torch.stack([torch.tensor(_pose(*where), dtype=torch.float64) for *where, _ in self._each()])

    def _each(self) -> Iterator[tuple[float, float, float, float]]:
        return zip(*(values.tolist() for values in self._values()), strict=True)

    def _values(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.azimuth_R, self.elevation_R, self.distance_R, self.fov_R


def make(azimuth: Each, elevation: Each, distance: Each, fov: Each) -> Cameras:
    """Cameras from lists of one length, or from one number for all, in degrees and world units."""
    values = (torch.tensor(each, dtype=torch.float64) for each in (azimuth, elevation, distance, fov))
    return Cameras(*torch.broadcast_tensors(*values))


def sample(cfg: CameraConfig, u_R4: Tensor) -> Cameras:
    """One camera per run, uniform in each range of the config.

    u_R4 in [0, 1): draws for azimuth, elevation, distance, field of view, in this order.
    """
    ranges = (cfg.azimuth, cfg.elevation, cfg.distance, cfg.fov)
    u_4R = u_R4.detach().to("cpu", torch.float64).unbind(1)
    return Cameras(*(low + (high - low) * u for (low, high), u in zip(ranges, u_4R, strict=True)))


def evaluation(cfg: ViewsConfig) -> Cameras:
    """The V = cfg.tiles fixed cameras.

    Evenly spaced azimuths (DreamFusion's protocol), then the front at the held-out elevation
    (DreamFields' view), where there is one.
    """
    n = cfg.azimuths
    held_out = [] if cfg.heldout_elevation is None else [cfg.heldout_elevation]
    return make(
        [360.0 * i / n for i in range(n)] + [0.0] * len(held_out),
        [cfg.elevation] * n + held_out,
        cfg.distance,
        cfg.fov,
    )


def _pose(azimuth: float, elevation: float, distance: float) -> list[list[float]]:
    ca, sa = math.cos(math.radians(azimuth)), math.sin(math.radians(azimuth))
    ce, se = math.cos(math.radians(elevation)), math.sin(math.radians(elevation))
    return [
        [-sa, -se * ca, ce * ca, distance * ce * ca],
        [ca, -se * sa, ce * sa, distance * ce * sa],
        [0.0, ce, se, distance * se],
        [0.0, 0.0, 0.0, 1.0],
    ]


def rays(cameras: Cameras, H: int, W: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Rays through the pixel centres: origins_RP3 and unit directions_RP3, float32, P = H·W.

    Row-major from the top left: pixel p is in row p // W from the top and column p % W from the left.
    """
    # Trigonometry goes through libm one run at a time: a vectorised sine may round the same angle differently
    # at different places of a pack.
    frames = []
    for azimuth, elevation, distance, fov in cameras._each():
        right, up, backward, _ = zip(*_pose(azimuth, elevation, distance)[:3], strict=True)
        tangent = math.tan(math.radians(fov) / 2)
        sides = [[each * tangent for each in side] for side in (right, up)]
        frames.append([[distance * b for b in backward], [-b for b in backward], *sides])
    device = device or torch.device("cpu")
    frames_R43 = upload(torch.tensor(frames, dtype=torch.float64), device)
    origin_R3, forward_R3, right_R3, up_R3 = frames_R43.unbind(1)

    column_W = (torch.arange(W, dtype=torch.float64, device=device) + 0.5) * (2 / H) - W / H
    row_H = 1 - (torch.arange(H, dtype=torch.float64, device=device) + 0.5) * (2 / H)
    horizontal_RW3 = column_W[None, :, None] * right_R3[:, None] + forward_R3[:, None]
    vertical_RH3 = row_H[None, :, None] * up_R3[:, None]
    directions_RP3 = (vertical_RH3[:, :, None] + horizontal_RW3[:, None, :]).reshape(-1, H * W, 3)
    x, y, z = directions_RP3.unbind(-1)
    directions_RP3 = directions_RP3 / (x * x + y * y + z * z).sqrt()[..., None]
    origins_RP3 = origin_R3[:, None].expand_as(directions_RP3)
    return origins_RP3.float().contiguous(), directions_RP3.float()
