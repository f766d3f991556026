"""A latent that is optimised itself: 2D generation, one view (DreamTime, arXiv 2306.12422, fig. 8)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from harness import rng
from harness.scene.cameras import Cameras
from harness.scene.contract import Draws, Params, Scene, View


class Image(Scene):
    """θ is the latent, "image" [R, C, H, W]; every camera sees the same picture."""

    has_sides = False
    reads = ("resolution",)

    def init(self, keys: Sequence[rng.Key], background_RC: Tensor) -> Params:
        """Standard normal noise."""
        side = self.cfg.resolution
        return {"image": rng.normal(keys, [0] * len(keys), "init", (self.channels, side, side))}

    def view(
        self,
        params: Params,
        cameras: Cameras,
        background_RC: Tensor,
        draws: Draws | None = None,
        state: Params | None = None,
        side: int | None = None,
    ) -> View:
        """The picture; ValueError for another side than its own."""
        if side not in (None, self.cfg.resolution):
            raise ValueError(f"an image of {self.cfg.resolution} pixels a side is not rendered at {side}")
        # A node of its own: the gradient at x and the parameter it is carried on to are two tensors.
        return View(params["image"] * 1.0)
