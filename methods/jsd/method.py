"""JSD: the inverted render's x̂_0, and the x̂_0 of that noised anew, are two targets (JSDDreamer)."""

from typing import ClassVar

from pydantic import Field

from harness.distill.inversion import inverted
from harness.distill.method import GradientContext, Level, Levels, Method, MethodParams, in_order


class Params(MethodParams):
    """Levels are of T = 1000. t falls from `high` to `low` in equal strides; `k` weighs the second target."""

    high: Level = 980
    low: Level = 250
    stride: Levels = Field(default=100, ge=1)
    inversion_scale: float = -13.5
    eta: float = Field(default=0.3, ge=0)
    k: float = Field(default=1.0, ge=0)

    _falls = in_order("low", "high")


class JensenShannonDistillation(Method):
    Params = Params
    nfe = (8, 26)
    recommended: ClassVar = {"guidance.cfg_scale": 13.5, "guidance.perp_neg": 1.0}

    def timesteps(self, step_R, total_R, draws_R):
        p = self.params
        t_R = p.low + ((p.high - p.low) * (1 - (step_R.double() - 1) / total_R)).long()
        return t_R.clamp(self.noise.t_min, self.noise.t_max)

    def gradient(self, ctx: GradientContext):
        p, t_R, x = self.params, ctx.t_R, ctx.x_RCHW
        last = len(self.noise.alphas_cumprod_T) - 1
        z, _ = inverted(ctx, t_R.cpu(), p.inversion_scale, p.eta, p.stride, last)
        first = ctx.clean(z, ctx.guided(z, t_R), t_R)
        again = ctx.add_noise(first, ctx.noise_RCHW, t_R)
        second = ctx.clean(again, ctx.guided(again, t_R), t_R)
        return (x - first) + p.k * (x - second)
