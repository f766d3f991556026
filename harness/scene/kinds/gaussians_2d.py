"""A latent as a sum of 2D Gaussians: 2D generation, one view (GaussianImage)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from harness import rng
from harness.scene.cameras import Cameras
from harness.scene.contract import Draws, Params, Scene, SceneSettings, View, by_run


class Settings(SceneSettings):
    """Of a picture of Gaussians."""

    count: int = Field(default=128, ge=1, le=10**5, description="Gaussians")
    size: float = Field(default=0.12, gt=0, description="deviation they start with; the picture is 2 wide")


class GaussianImage(Scene):
    """R pictures: flat background plus the sum of N latents times exp(−d²/2), d in deviations.

    "mean" [R, N, 2] in −1…1 from left to right and from the top down, "scale" [R, N, 2] (log), "angle"
    [R, N], "latent" [R, N, C]. Summed without an order, as in Zhang et al. 2024 (arXiv 2403.08551, eq. 7).
    """

    Settings = Settings
    has_sides = False
    reads = ("resolution", "background_rgb")

    def learning_rates(self) -> Mapping[str, float]:
        """Shapes move more slowly than latents."""
        return {"mean": 0.3, "scale": 0.5}

    def init(self, keys: Sequence[rng.Key], background_RC: Tensor) -> Params:
        """Even over the picture, turned anyhow, latents standard normal."""
        runs, steps, count = len(keys), [0] * len(keys), self.own.count
        return {
            "mean": 2 * rng.uniform(keys, steps, "init", (count, 2), "mean") - 1,
            "scale": torch.full((runs, count, 2), math.log(self.own.size)),
            "angle": math.pi * rng.uniform(keys, steps, "init", (count,), "angle"),
            "latent": rng.normal(keys, steps, "init", (count, self.channels), "latent"),
        }

    def view(
        self,
        params: Params,
        cameras: Cameras,
        background_RC: Tensor,
        draws: Draws | None = None,
        state: Params | None = None,
        side: int | None = None,
    ) -> View:
        """The picture, of any side."""
        side = side or self.cfg.resolution

        def shown(
            background_RC: Tensor, mean_RN2: Tensor, scale_RN2: Tensor, angle_RN: Tensor, latent_RNC: Tensor
        ) -> tuple[Tensor]:
            axis_S = (torch.arange(side, device=mean_RN2.device, dtype=mean_RN2.dtype) + 0.5) * (2 / side) - 1
            dx_RPN = axis_S.repeat(side)[:, None] - mean_RN2[:, None, :, 0]
            dy_RPN = axis_S.repeat_interleave(side)[:, None] - mean_RN2[:, None, :, 1]
            cos_R1N, sin_R1N = angle_RN.cos()[:, None], angle_RN.sin()[:, None]
            along_R1N, across_R1N = (-scale_RN2).exp()[:, None].unbind(-1)
            away_RPN = ((cos_R1N * dx_RPN + sin_R1N * dy_RPN) * along_R1N).square() + (
                (cos_R1N * dy_RPN - sin_R1N * dx_RPN) * across_R1N
            ).square()
            x_RPC = background_RC[:, None] + torch.exp(-0.5 * away_RPN) @ latent_RNC
            return (x_RPC.transpose(1, 2).unflatten(2, (side, side)),)

        order = (params[name] for name in ("mean", "scale", "angle", "latent"))
        return View(by_run(shown, background_RC, *order)[0])
