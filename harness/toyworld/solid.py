"""The solid that a caption describes, for shapes to be measured against."""

from __future__ import annotations

import numpy as np

from harness.toyworld.grammar import parse
from harness.toyworld.kinds import primitives
from harness.toyworld.render import SIZE, signed_distance, silhouettes


class Solid:
    """A toy scene as geometry; UserError for a caption outside the toy world's language."""

    def __init__(self, caption: str):
        self.rows = primitives(parse(caption))

    def distance(self, points_N3: np.ndarray) -> np.ndarray:
        """Signed distance [N] to points in world units, negative inside."""
        return signed_distance(self.rows, points_N3)

    def silhouettes(self, cameras_N4: np.ndarray, side: int = SIZE) -> np.ndarray:
        """What cameras [azimuth, elevation, distance, fov] see covered to a half, bool [N, side, side]."""
        return silhouettes(self.rows, cameras_N4, side)
