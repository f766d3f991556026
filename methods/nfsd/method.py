"""NFSD: noise-free score distillation, without the part of ε̂ that is taken to be noise."""

from typing import ClassVar

import torch

from harness.distill.method import GradientContext, Levels, Method, MethodParams


class Params(MethodParams):
    """Below `small_t` the unconditional ε̂ is held to be free of noise."""

    negative_prompt: str = (
        "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, "
        "gloomy"
    )
    small_t: Levels = 200


class NoiseFreeScoreDistillation(Method):
    Params = Params
    nfe = 3
    recommended: ClassVar = {"guidance.cfg_scale": 7.5, "guidance.weighting": "sds"}

    def gradient(self, ctx: GradientContext):
        null, cond, negative = ctx.predict(
            ctx.x_t_RCHW, ctx.t_R, ctx.empty_RLD, ctx.cond_RLD, ctx.embed(self.params.negative_prompt)
        )
        small = (ctx.t_R < self.params.small_t)[:, None, None, None]
        domain = torch.where(small, null, null - negative)
        return self.weight(ctx.t_R)[:, None, None, None] * (ctx.cfg_scale * (cond - null) + domain)
