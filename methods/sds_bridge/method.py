"""SDS-Bridge: SDS first, then the way from a description of bad renders to one of good ones."""

from typing import ClassVar

import torch
from pydantic import Field

from harness.distill.method import GradientContext, Method, MethodParams


class Params(MethodParams):
    """What is put behind the prompt in the second stage, which begins after the share `start` of the run."""

    target: str = ", detailed high resolution, high quality, sharp"
    source: str = (
        ", oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy, malformed"
    )
    start: float = Field(default=0.5, ge=0, le=1)


class BridgeDistillation(Method):
    Params = Params
    recommended: ClassVar = {
        "guidance.cfg_scale": 40.0,
        "guidance.weighting": "sds",
        "optim.lr": 0.01,
        "optim.betas": [0.9, 0.99],
    }

    def gradient(self, ctx: GradientContext):
        second_R = ctx.progress_R > self.params.start
        sds = ctx.guided(ctx.x_t_RCHW, ctx.t_R, only_R=~second_R) - ctx.noise_RCHW
        target, source = ctx.predict(
            ctx.x_t_RCHW,
            ctx.t_R,
            ctx.suffixed(self.params.target),
            ctx.suffixed(self.params.source),
            only_R=second_R,
        )
        g = torch.where(second_R[:, None, None, None], ctx.cfg_scale * (target - source), sds)
        return self.weight(ctx.t_R)[:, None, None, None] * g
