"""3D Gaussians, composited by depth; on a schedule some split and faint ones go (3D Gaussian splatting)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor

from harness import rng
from harness.device import upload
from harness.scene import splats
from harness.scene.cameras import Cameras
from harness.scene.contract import Draws, Params, Scene, SceneSettings, View, by_run
from harness.scene.regularisers import of_opacity
from harness.scene.splats import Gaussians

if TYPE_CHECKING:
    from harness.config import SceneConfig

SHRINK = 1.6  # by which both halves of a Gaussian that splits are smaller (3DGS)
MOVED = ("mean", "scale", "rotation", "opacity", "latent")  # what a half takes over
CHUNK = 2**19  # Gaussians times points of a query


class Settings(SceneSettings):
    """Of a cloud of Gaussians."""

    most: int = Field(default=512, ge=2, le=10**6, description="Gaussians that there is room for")
    first: int = Field(default=256, ge=1, description="of them alive at the start")
    size: float = Field(default=0.07, gt=0, description="deviation they start with, in world units")
    opacity: float = Field(default=0.2, gt=0, lt=1, description="opacity they start with")
    blur: float = Field(
        default=0.1, gt=0, description="square pixels of scene.resolution that each is widened by (3DGS: 0.3)"
    )
    every: int = Field(default=40, ge=1, description="steps between two prunings and splittings")
    until: float = Field(default=0.7, ge=0, le=1, description="share of the run after which they end")
    grow: float = Field(default=0.15, ge=0, le=1, description="share of the alive that split at a time")
    faint: float = Field(default=0.02, ge=0, lt=1, description="an opacity below which one goes")


class SplatScene(Scene):
    """R clouds of N Gaussians: "mean" [R, N, 3], "scale" [R, N, 3] (log), "rotation" [R, N, 4], "opacity"
    [R, N] (before its sigmoid), "latent" [R, N, C], and "alive" [R, N], 1 or 0, which no gradient reaches.

    Those split that pull most at their means, a share of the alive and not all above a threshold as in 3DGS
    (arXiv 2308.04079, section 5): the size of a distilled gradient is the method's, and so is no scene's.
    """

    Settings = Settings
    quantity = "density"
    reads = ("resolution", "samples", "bound", "density_radius", "background", "background_spread",
             "background_rgb", "entropy", "sparsity")  # fmt: skip

    def __init__(self, cfg: SceneConfig, channels: int, encoder: str = "torch"):
        super().__init__(cfg, channels, encoder)
        if encoder in ("triton", "tinycudann") and (reason := splats.missing()):
            logging.getLogger(__name__).warning("no fast splatting (%s); using torch", reason)

    def learning_rates(self) -> Mapping[str, float]:
        """A Gaussian is seen by few rays, as a corner of a grid is."""
        return {"mean": 0.6, "scale": 1.0, "rotation": 1.0, "opacity": 5.0, "latent": 6.0}

    @property
    def finest_cells(self) -> int:
        """Those that are as wide as a Gaussian at the start."""
        return max(16, round(2 * self.bound / self.own.size))

    def init(self, keys: Sequence[rng.Key], background_RC: Tensor) -> Params:
        """Means even in the ball of radius `scene.density_radius`, next to no latent."""
        own, runs, steps = self.own, len(keys), [0] * len(keys)
        way_RN3 = rng.normal(keys, steps, "init", (own.most, 3), "way")
        share_RN1 = rng.uniform(keys, steps, "init", (own.most, 1), "radius")
        x, y, z = way_RN3.unbind(-1)
        length_RN1 = (x * x + y * y + z * z).sqrt()[..., None]
        # Powers round by the place in a vector: a run at a time.
        [radius_RN1] = by_run(lambda share: (share ** (1 / 3),), share_RN1)
        alive_N = (torch.arange(own.most) < own.first).float()
        params = {
            "mean": self.cfg.density_radius * radius_RN1 * way_RN3 / length_RN1,
            "scale": torch.full((runs, own.most, 3), math.log(own.size)),
            "rotation": torch.tensor([1.0, 0, 0, 0]).repeat(runs, own.most, 1),
            "opacity": torch.full((runs, own.most), math.log(own.opacity / (1 - own.opacity))),
            "latent": 0.1 * rng.normal(keys, steps, "init", (own.most, self.channels), "latent"),
            "alive": alive_N.repeat(runs, 1),
        }
        return params | self.learned_background(background_RC)

    def state(self, runs: int) -> Params:
        """How much the gradients have pulled at each mean since the last splitting."""
        return {"pull": torch.zeros(runs, self.own.most)}

    def after_step(
        self,
        params: Params,
        state: Params,
        grads: Params,
        moments: Sequence[Params],
        step_R: Tensor,
        total_R: Tensor,
        draws: Draws,
    ) -> None:
        """Every `every` steps the faint, and those outside, go, and those with the most pull split."""
        x, y, z = grads["mean"].unbind(-1)
        state["pull"] += (x * x + y * y + z * z).sqrt()
        due_R = (step_R % self.own.every == 0) & (step_R <= self.own.until * total_R)
        if not due_R.any():
            return
        place_RN3 = (2 * draws((self.own.most, 3)) - 1) * 3**0.5  # of deviation 1
        for r in due_R.nonzero()[:, 0].tolist():
            run = {name: value[r] for name, value in params.items()}
            self._revise(run, state["pull"][r], [{n: m[n][r] for n in MOVED} for m in moments], place_RN3[r])

    def _revise(self, run: Params, pull_N: Tensor, moments: Sequence[Params], place_N3: Tensor) -> None:
        alive_N = self._opacity(run) > self.own.faint
        if alive_N.any():  # the last ones stay
            run["alive"].copy_(alive_N)
        alive_N = run["alive"] > 0
        free_n = (~alive_N).nonzero()[:, 0]
        count = min(len(free_n), math.ceil(self.own.grow * int(alive_N.sum())))
        parent_n = torch.where(alive_N, pull_N, -1.0).argsort(descending=True, stable=True)[:count]
        child_n = free_n[:count]
        axes_n33 = splats.axes(run["scale"][parent_n], run["rotation"][parent_n])
        offset_n3 = (axes_n33 * place_N3[parent_n][:, None]).sum(-1)
        run["scale"][parent_n] -= math.log(SHRINK)
        for name in MOVED:
            run[name][child_n] = run[name][parent_n]
            for moment in moments:
                moment[name][parent_n] = 0
                moment[name][child_n] = 0
        run["mean"][parent_n] += offset_n3
        run["mean"][child_n] -= offset_n3
        run["alive"][child_n] = 1
        pull_N.zero_()

    def _opacity(self, params: Params) -> Tensor:
        """Of those that are alive and inside the cube; 0 of others. [R, N], or without R."""
        is_there_RN = (params["alive"].detach() > 0) & (params["mean"].detach().abs() <= self.bound).all(-1)
        return torch.sigmoid(params["opacity"]) * is_there_RN

    def view(
        self,
        params: Params,
        cameras: Cameras,
        background_RC: Tensor,
        draws: Draws | None = None,
        state: Params | None = None,
        side: int | None = None,
    ) -> View:
        """Splats, blurred by as much of the picture at any side."""
        side = side or self.cfg.resolution
        names, device = list(params), params["mean"].device
        on_cuda = device.type == "cuda" and self.encoder != "torch" and splats.missing() is None
        splat = splats.rasterise if on_cuda else splats.composite
        blur = self.own.blur * (side / self.cfg.resolution) ** 2

        def shown(
            view_R44: Tensor, focal_R: Tensor, background_RC: Tensor, *values: Tensor
        ) -> tuple[Tensor, Tensor, Tensor]:
            each = dict(zip(names, values, strict=True))
            cloud = Gaussians(
                each["mean"], each["scale"], each["rotation"], self._opacity(each), each["latent"]
            )
            x_RPC, rest_RP, depth_RP = splat(cloud, view_R44, focal_R, blur, side)
            x_RPC = x_RPC + rest_RP[..., None] * background_RC[:, None]
            return x_RPC.transpose(1, 2), 1 - rest_RP, depth_RP

        x_RCP, opacity_RP, depth_RP = by_run(
            shown,
            upload(splats.world_to_camera(cameras), device),
            upload(splats.focal(cameras, side), device),
            self.backdrop(params, background_RC, draws),
            *params.values(),
        )
        opacity_RHW = opacity_RP.unflatten(1, (side, side))
        return View(
            x_RCP.unflatten(2, (side, side)),
            opacity_RHW,
            depth_RP.unflatten(1, (side, side)),
            of_opacity(self.cfg, opacity_RHW) if draws else {},
            {"alive": params["alive"]},
        )

    def query(self, params: Params, x_RN3: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of opacity times exp(−d²/2), d in deviations, and the latents' mean under these weights
        (DreamGaussian, arXiv 2309.16653, section 3.2)."""
        names = list(params)

        def at(x_RN3: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
            each = dict(zip(names, values, strict=True))
            if len(x_RN3) == 1:  # where runs are computed by themselves those that are not there cost nothing
                alive_N = each["alive"][0] > 0
                each |= {name: each[name][:, alive_N] for name in (*MOVED, "alive")}
            inverse_RN33 = splats.axes(each["scale"], each["rotation"], -1)
            centre_RN3 = (inverse_RN33 * each["mean"][..., None]).sum(-2)
            opacity_R1N, parts = self._opacity(each)[:, None], []
            for x_Rn3 in x_RN3.split(max(1, CHUNK // self.own.most), 1):
                away_RnN = x_Rn3.new_zeros(())
                for axis in range(3):
                    way_R3N, place_R1N = inverse_RN33[..., axis].transpose(1, 2), centre_RN3[:, None, :, axis]
                    away_RnN = away_RnN + torch.baddbmm(-place_R1N, x_Rn3, way_R3N).square()
                weight_RnN = opacity_R1N * torch.exp((-0.5 * away_RnN).clamp(min=splats.FAR))
                total_Rn1 = weight_RnN.sum(-1, keepdim=True)
                latent_RnC = weight_RnN @ each["latent"] / total_Rn1.clamp(min=1e-6)
                inside_Rn1 = (x_Rn3.abs() <= self.bound).all(-1, keepdim=True)
                parts.append(torch.cat([total_Rn1 * inside_Rn1, latent_RnC], -1))
            out_RNO = torch.cat(parts, 1)
            return out_RNO[..., 0], out_RNO[..., 1:]

        density_RN, latent_RNC = by_run(at, x_RN3, *params.values())
        return density_RN, latent_RNC
