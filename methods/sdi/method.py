"""SDI: score distillation via inversion, the noise is found by DDIM inversion of the render."""

from typing import ClassVar

from pydantic import Field

from harness.distill.inversion import inverted
from harness.distill.method import GradientContext, Level, Levels, Method, MethodParams, in_order


class Params(MethodParams):
    """Levels are of T = 1000. t falls from `high` to `low` in equal strides. `remap`: the noise that was
    found is put at level t, as published; without it the inverted latent is taken for one of level t, as
    coded."""

    high: Level = 980
    low: Level = 250
    stride: Levels = Field(default=100, ge=1)
    inversion_scale: float = -7.5
    eta: float = Field(default=0.3, ge=0)
    remap: bool = False

    _falls = in_order("low", "high")


class ScoreDistillationViaInversion(Method):
    Params = Params
    presets: ClassVar = {"published": {"remap": True}}
    nfe = (6, 24)
    recommended: ClassVar = {"guidance.cfg_scale": 7.5, "guidance.perp_neg": 1.0}

    def timesteps(self, step_R, total_R, draws_R):
        p = self.params
        t_R = p.low + ((p.high - p.low) * (1 - (step_R.double() - 1) / total_R)).long()
        return t_R.clamp(self.noise.t_min, self.noise.t_max)

    def gradient(self, ctx: GradientContext):
        p, x = self.params, ctx.x_RCHW
        last = len(self.noise.alphas_cumprod_T) - 1
        z, last_R = inverted(ctx, ctx.t_R.cpu(), p.inversion_scale, p.eta, p.stride, last)
        if p.remap:
            signal, noise = ctx.levels(last_R)
            z = ctx.add_noise(x, (z - signal * x) / noise, ctx.t_R)
        return x - ctx.clean(z, ctx.guided(z, ctx.t_R), ctx.t_R)
