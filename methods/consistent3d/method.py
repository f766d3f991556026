"""Consistent3D (CDS): one fixed noise, and two neighbouring points of its deterministic path are to agree."""

from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat

from harness.distill.method import GradientContext, Level, Levels, Method, MethodParams


class Params(MethodParams):
    """Timesteps are of T = 1000. t' goes from `start` to `end` as √ of the run's share; t is `gap` and up to
    `spread` further on. `cfg_end` is the share of the CFG scale that is left at the end; `clip` bounds every
    element of the gradient, at the beginning and at the end (none: not at all)."""

    start: Level = 700
    end: Level = 100
    gap: Level = 100
    spread: Levels = Field(default=200, ge=1)
    cfg_end: float = Field(default=0.5, ge=0)
    clip: tuple[PositiveFloat, PositiveFloat] | None = (2.0, 8.0)


class ConsistencyDistillationSampling(Method):
    Params = Params
    presets: ClassVar = {"refine": {"start": 300, "end": 20, "spread": 100, "cfg_end": 0.3}}
    nfe = 4
    recommended: ClassVar = {"guidance.cfg_scale": 101.0, "guidance.t_range": [0.1, 0.98]}

    def timesteps(self, step_R, total_R, draws_R):
        p, progress_R = self.params, step_R / total_R.double()
        t_R = (p.start + (p.end - p.start) * progress_R.sqrt()).long()
        return t_R.clamp(self.noise.t_min, max(self.noise.t_max - p.gap, self.noise.t_min))

    def gradient(self, ctx: GradientContext):
        p, share = self.params, ctx.progress_R[:, None, None, None]
        further_R = p.gap + (ctx.uniform("gap").double() * p.spread).long()
        far_R = (ctx.t_R + further_R).clamp(max=self.noise.t_max)
        scale = ctx.cfg_scale * (1 + (p.cfg_end - 1) * share)

        x_far = ctx.add_noise(ctx.x_RCHW, ctx.normal("star", fixed=True), far_R)
        eps_far = ctx.guided(x_far, far_R, scale)
        eps_near = ctx.guided(ctx.ddim(x_far, eps_far, far_R, ctx.t_R), ctx.t_R, scale)
        g = self.weight(far_R)[:, None, None, None] * (eps_far - eps_near)
        if p.clip is None:
            return g
        bound = p.clip[0] + (p.clip[1] - p.clip[0]) * share
        return torch.minimum(torch.maximum(g, -bound), bound)
