"""CFD: consistent flow distillation, the clean flow followed with a noise that stays on the object."""

from typing import ClassVar, Literal

import torch
from pydantic import field_validator

from harness.distill.method import GradientContext, Method, MethodParams


class Params(MethodParams):
    """`pace`: pairs (share of the run, share of the way from t_max to t_min), joined by straight lines.

    `noise` "worldmap": in a scene with an opacity, the camera looks at a map of noise that turns with it;
    "fixed", and where there is no opacity: every view has the same noise.
    """

    pace: tuple[tuple[float, float], ...] = ((0.0, 0.0), (1.0, 1.0))
    noise: Literal["worldmap", "fixed"] = "worldmap"

    @field_validator("pace")
    @classmethod
    def _rises(cls, pace):
        shares, ways = [share for share, _ in pace], [way for _, way in pace]
        rises = shares == sorted({*shares}) and (*shares[:1], *shares[-1:]) == (0, 1)
        if not rises or not all(0 <= way <= 1 for way in ways):
            raise ValueError("pairs of numbers in 0…1, of which the first rise from 0 to 1")
        return pace


class ConsistentFlowDistillation(Method):
    Params = Params
    presets: ClassVar = {"long": {"pace": ((0.0, 0.0), (0.1, 0.3), (0.5, 0.6), (1.0, 0.8))}}
    recommended: ClassVar = {
        "guidance.cfg_scale": 8.0,
        "guidance.negative": (
            "lack details, ugly, oversmoothed, bad structure, out of focus, blurry, cartoon, oversaturated, "
            "foggy, hazy, bad anatomy, malformed, pixelated obscure, unnatural colors, dull, unclear, "
            "lowres, low quality, deformed, dehydrated"
        ),
        "optim.betas": [0.0, 0.99],
    }

    def timesteps(self, step_R, total_R, draws_R):
        progress_R, way_R = step_R / total_R.double(), torch.zeros(len(step_R), dtype=torch.float64)
        for (s0, w0), (s1, w1) in zip(self.params.pace, self.params.pace[1:], strict=False):
            along_R = ((progress_R - s0) / (s1 - s0)).clamp(0, 1)
            way_R = torch.where(progress_R >= s0, w0 + (w1 - w0) * along_R, way_R)
        return self.noise.t_max + ((self.noise.t_min - self.noise.t_max) * way_R).round().long()

    def gradient(self, ctx: GradientContext):
        noise = self._noise(ctx)
        signal, deviation = ctx.levels(ctx.t_R)
        eps = ctx.guided(ctx.add_noise(ctx.x_RCHW, noise, ctx.t_R), ctx.t_R)
        return deviation / signal * (eps - noise)

    def _noise(self, ctx: GradientContext) -> torch.Tensor:
        """The camera's view of the run's noise: a window of H×W in a map of 2H×2W, which goes round the
        equator once and covers elevations from 90° to −90° with its upper edge. Behind the object, where its
        opacity is below ½, the noise stands still."""
        behind = ctx.normal("behind", fixed=True)
        if self.params.noise == "fixed" or "opacity" not in ctx.maps:
            return behind
        _, C, H, W = behind.shape
        device, whole_RCYX = behind.device, ctx.normal("map", (C, 2 * H, 2 * W), fixed=True)
        turn_R = ((ctx.cameras.azimuth_R % 360.0) / 360.0 * 2 * W).long()
        fall_R = ((90.0 - ctx.cameras.elevation_R) / 180.0 * H).long()
        rows_RH = fall_R[:, None] + torch.arange(H, device=device)
        columns_RW = (turn_R[:, None] + torch.arange(W, device=device)) % (2 * W)
        windows = [
            whole_CYX[:, rows_H][:, :, columns_W]
            for whole_CYX, rows_H, columns_W in zip(whole_RCYX, rows_RH, columns_RW, strict=True)
        ]
        return torch.where(ctx.map("opacity")[:, None] < 0.5, behind, torch.stack(windows))
