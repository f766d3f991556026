"""DSD: each run follows one trajectory of DDIM from a noise of its own (Diverse Score Distillation)."""

from typing import ClassVar

import torch
from pydantic import Field

from harness.distill.inversion import walk
from harness.distill.method import GradientContext, Level, Method, MethodParams, in_order


class Params(MethodParams):
    """Levels are of T = 1000. t falls from `high` to `low` with the square root of the progress; t' lies
    above t by up to `ahead` of t − low; `hops`: of DDIM over the whole of T."""

    high: Level = 980
    low: Level = 320
    ahead: float = Field(default=0.1, ge=0)
    hops: int = Field(default=10, ge=1, le=1000)

    _falls = in_order("low", "high")


class DiverseScoreDistillation(Method):
    Params = Params
    nfe = (5, 25)
    recommended: ClassVar = {
        "guidance.cfg_scale": 7.5,
        "guidance.weighting": "sds",
        "guidance.perp_neg": 1.0,
    }

    def timesteps(self, step_R, total_R, draws_R):
        p = self.params
        share_R = ((step_R.double() - 1) / total_R).sqrt()
        t_R = p.low + ((p.high - p.low) * (1 - share_R)).long()
        return t_R.clamp(self.noise.t_min, self.noise.t_max)

    def gradient(self, ctx: GradientContext):
        p, last, t_R = self.params, len(self.noise.alphas_cumprod_T) - 1, ctx.t_R.cpu()
        reach_R = (p.ahead * (t_R - p.low).double()).clamp(min=0).minimum(last - t_R)
        ahead_R = t_R + (reach_R * ctx.uniform("ahead").double().cpu()).long()

        # Down the run's own trajectory from pure noise to t', whose ε̂ is the noise of this step.
        grid = [last * (p.hops - k) // p.hops for k in range(p.hops)]
        levels_KR = [torch.where(ahead_R < level, level, ahead_R) for level in grid]
        z = walk(
            ctx,
            ctx.normal("start", fixed=True),
            [*levels_KR, ahead_R],
            lambda z, at_R, only_R: ctx.guided(z, at_R, only_R=only_R),
        )
        noise = ctx.guided(z, ahead_R)

        target = ctx.predict(ctx.add_noise(ctx.x_RCHW, noise, ahead_R), ahead_R, ctx.cond_RLD)
        eps = ctx.guided(ctx.add_noise(ctx.x_RCHW, noise, t_R), t_R)
        return self.weight(ctx.t_R)[:, None, None, None] * (eps - target)
