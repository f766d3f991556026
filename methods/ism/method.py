"""ISM: interval score matching, the noise of the last hop of an inversion is the target (LucidDreamer)."""

import torch
from pydantic import Field

from harness.distill.inversion import IntervalMethod, walk
from harness.distill.method import GradientContext, MethodParams

FIRST = 1  # the level at which x is noised and the inversion begins


class Params(MethodParams):
    """Levels are of T = 1000. t ~ U{low, …, high − 1}, and `high` falls from `high_start` during the first
    `warm` of a run; the interval t − s falls from `interval_start` to `interval` meanwhile."""

    low: int = Field(default=21, ge=1)
    high: int = Field(default=501, ge=2)
    high_start: int = Field(default=981, ge=2)
    warm: float = Field(default=0.3, ge=0, le=1)
    interval: int = Field(default=80, ge=1)
    interval_start: int = Field(default=100, ge=1)
    stride: int = Field(default=200, ge=1)  # of the hops to s
    hops: int = Field(default=5, ge=0, le=20)  # at most
    strength: float = Field(default=0.1, gt=0)
    offset_noise: float = Field(default=0.1, ge=0)
    flip: bool = False


class IntervalScoreMatching(IntervalMethod):
    Params = Params
    nfe = (3, 8)

    def timesteps(self, step_R, total_R, draws_R):
        p, noise = self.params, self.noise
        high_R = p.high + ((p.high_start - p.high) * self.warmth(step_R, total_R)).long()
        low_R = torch.full_like(high_R, p.low).clamp(noise.t_min, noise.t_max)
        high_R = torch.maximum(high_R.clamp(max=noise.t_max + 1), low_R + 1)
        return low_R + (draws_R.double() * (high_R - low_R)).long()

    def gradient(self, ctx: GradientContext):
        p, t_R = self.params, ctx.t_R.cpu()
        warm_R = self.warmth(ctx.step_R.cpu(), ctx.total_R.cpu())
        interval_R = (p.interval + (p.interval_start - p.interval) * warm_R).long()
        s_R = torch.minimum((t_R - interval_R).clamp(min=FIRST), t_R)
        start_R = torch.minimum((s_R - p.stride * p.hops).clamp(min=FIRST), s_R)
        levels_KR = [torch.minimum(start_R + k * p.stride, s_R) for k in range(p.hops + 1)]

        flips = ctx.uniform("flip", (1, 1, 1)) < 0.5 * p.flip

        def flipped(x):
            return torch.where(flips, x.flip(-1), x)

        offset = p.offset_noise * ctx.normal("offset", (ctx.x_RCHW.shape[1], 1, 1))
        x_s = ctx.add_noise(flipped(ctx.x_RCHW), ctx.noise_RCHW + offset, start_R)
        x_s = walk(
            ctx, x_s, levels_KR, lambda z, at_R, only_R: ctx.predict(z, at_R, ctx.empty_RLD, only_R=only_R)
        )
        target = ctx.predict(x_s, s_R, ctx.empty_RLD)
        eps = ctx.guided(ctx.ddim(x_s, target, s_R, t_R), t_R)
        return flipped(self.weight(ctx.t_R)[:, None, None, None] * (eps - target))
