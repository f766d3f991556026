"""A hash grid and a small network give a signed distance, rendered as VolSDF does, with an eikonal term."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from harness import rng
from harness.scene.contract import Params, SceneSettings, by_run, mean_by_run
from harness.scene.kinds.field import HashField
from harness.scene.renderer import Render

SPARSE = 8  # the eikonal term looks at every so many samples of a ray


class Settings(SceneSettings):
    """Of a signed distance."""

    beta: float = Field(default=0.1, gt=0, description="β that the density starts with, in world units")
    beta_least: float = Field(default=0.01, gt=0, description="what is added to the learned part of β")
    eikonal: float = Field(default=0.1, ge=0, description="weight of the eikonal term")


class SignedDistance(HashField):
    """R signed distances d(x) = |x| − `scene.density_radius` + network(x), a ball at the start.

    Parameters are those of a field, and "log_beta" [R, 1]. The density is that of VolSDF (Yariv et al. 2021,
    arXiv 2106.12052, eq. 2–3): 1/β times the Laplace distribution's share below −d, of scale β. The eikonal
    term (|∇d| − 1)² is taken from differences, as in Neuralangelo (Li et al. 2023, arXiv 2306.03092).
    """

    Settings = Settings
    quantity = "distance"
    reads = tuple(key for key in HashField.reads if key != "density_bias")

    def init(self, keys: Sequence[rng.Key], background_RC: Tensor) -> Params:
        """A field's, and β."""
        log_beta_R1 = torch.full((len(keys), 1), math.log(self.own.beta))
        return super().init(keys, background_RC) | {"log_beta": log_beta_R1}

    def distance_latent(self, params: Params, x_RN3: Tensor) -> Tensor:
        """Signed distance, then latent, [R, N, 1 + C] at points in world units."""
        if self.fused:
            # The kernels make a density of the first output: it gets one of its own, and nobody's gradient.
            out_RNO = self.fused.query(
                self.grid,
                (self.bound, 0.0, 1.0),
                x_RN3,
                params["table"],
                params["w1"],
                params["b1"],
                *(torch.cat([torch.zeros_like(w[:, :1]), w], 1) for w in (params["w2"], params["b2"])),
            )[..., 1:]
        else:
            names = [name for name in params if name not in ("background", "log_beta")]

            def outputs(x_RN3: Tensor, *values: Tensor) -> tuple[Tensor]:
                return (self.outputs(dict(zip(names, values, strict=True)), x_RN3),)

            [out_RNO] = by_run(outputs, x_RN3, *(params[name] for name in names))
        x, y, z = x_RN3.unbind(-1)
        ball_RN = (x * x + y * y + z * z).sqrt() - self.cfg.density_radius
        return torch.cat([out_RNO[..., :1] + ball_RN[..., None], out_RNO[..., 1:]], -1)

    def density_latent(self, params: Params, x_RN3: Tensor) -> Tensor:
        """VolSDF's density, then latent; zero outside the cube."""

        def dense(x_RN3: Tensor, out_RNO: Tensor, log_beta_R1: Tensor) -> tuple[Tensor]:
            beta_R11 = log_beta_R1[:, None].exp() + self.own.beta_least
            distance_RN1 = out_RNO[..., :1]
            tail_RN1 = 0.5 * torch.exp(-distance_RN1.abs() / beta_R11)
            density_RN1 = torch.where(distance_RN1 > 0, tail_RN1, 1 - tail_RN1) / beta_R11
            inside_RN1 = (x_RN3.abs() <= self.bound).all(-1, keepdim=True)
            return (torch.cat([density_RN1, out_RNO[..., 1:]], -1) * inside_RN1,)

        return by_run(dense, x_RN3, self.distance_latent(params, x_RN3), params["log_beta"])[0]

    def query(self, params: Params, x_RN3: Tensor) -> tuple[Tensor, Tensor]:
        """Signed distance [R, N] and latent [R, N, C] at points in world units."""
        out_RNO = self.distance_latent(params, x_RN3)
        return out_RNO[..., 0], out_RNO[..., 1:]

    def penalties(self, params: Params, out: Render) -> dict[str, Tensor]:
        """With the eikonal term, over some of the samples."""
        terms = super().penalties(params, out)
        if self.own.eikonal > 0:
            points_RN3 = out.points_RPS3[:, :, ::SPARSE].flatten(1, 2)
            x, y, z = self.slope(params, points_RN3, self.bound / self.finest_cells).unbind(-1)
            off_RN = ((x * x + y * y + z * z + 1e-12).sqrt() - 1).square()
            inside_RN = (points_RN3.abs() <= self.bound).all(-1).to(off_RN.dtype)
            share_R = mean_by_run(inside_RN).clamp(min=1e-6)
            terms["eikonal"] = self.own.eikonal * mean_by_run(off_RN * inside_RN) / share_R
        return terms
