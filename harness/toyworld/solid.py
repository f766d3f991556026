"""The solid that a caption describes, for shapes to be measured against."""

from __future__ import annotations

import numpy as np
import torch

from harness.toyworld.grammar import parse, without_colours
from harness.toyworld.kinds import primitives
from harness.toyworld.render import BACKGROUND, SIZE, distances, render, textureless


class Solid:
    """A toy scene as geometry; UserError for a caption outside the toy world's language.

    `words`: its caption without colours, which is what shapes can tell.
    """

    def __init__(self, caption: str):
        scene = parse(caption)
        self.rows, self.words = primitives(scene), without_colours(scene)

    def distance(self, points_N3: np.ndarray) -> np.ndarray:
        """Signed distance [N] to points in world units, negative inside; a bound beside ellipsoids."""
        out = np.empty(len(points_N3), dtype=np.float64)
        distances(self.rows, np.ascontiguousarray(points_N3, dtype=np.float64), out)
        return out

    def silhouettes(self, cameras_N4: np.ndarray, side: int = SIZE) -> np.ndarray:
        """What cameras [azimuth, elevation, distance, fov] see covered to a half, bool [N, side, side]."""
        black = self.rows.copy()
        black[:, 17:20], black[:, 20] = 0.0, 0.0
        images = render([black] * len(cameras_N4), cameras_N4, side)
        return images[..., 2] <= 0.5 * 255 * BACKGROUND[2]

    def textureless(self, cameras_N4: np.ndarray, side: int = SIZE) -> np.ndarray:
        """Grey pictures of the shape alone from those cameras, uint8 [N, side, side, 3]."""
        seen = textureless([self.rows] * len(cameras_N4), cameras_N4, torch.device("cpu"), side)
        return seen.numpy()
