"""SCTD: consistency within a segment of the trajectory, weighed against guidance (SegmentDreamer)."""

import torch
from pydantic import Field

from harness.distill.inversion import IntervalMethod, walk
from harness.distill.method import GradientContext, MethodParams


class Params(MethodParams):
    """Levels are of T = 1000. t ~ U{low, …, high − 1}, both of which fall by `warm_levels` during the first
    `warm` of a run; edges cut bottom … top into equal segments; t is at least `least` above its edge e,
    e + gap ≤ s < t − gap, and from `two_hops` on t is reached by way of s."""

    low: int = Field(default=21, ge=1)
    high: int = Field(default=501, ge=2)
    warm_levels: int = Field(default=480, ge=0)
    warm: float = Field(default=0.3, ge=0, le=1)
    segments: int = Field(default=5, ge=1)
    bottom: int = Field(default=20, ge=0)
    top: int = Field(default=980, ge=1)
    least: int = Field(default=80, ge=1)
    gap: int = Field(default=10, ge=0)
    two_hops: int = Field(default=150, ge=0)
    strength: float = Field(default=0.1, gt=0)
    offset_noise: float = Field(default=0.1, ge=0)


class SegmentedConsistency(IntervalMethod):
    Params = Params
    nfe = (4, 5)

    def timesteps(self, step_R, total_R, draws_R):
        p = self.params
        warm_R = (p.warm_levels * self.warmth(step_R, total_R)).long()
        t_R = p.low + warm_R + (draws_R.double() * (p.high - p.low)).long()
        return self._segment(t_R)[1].clamp(self.noise.t_min, self.noise.t_max)

    def gradient(self, ctx: GradientContext):
        p = self.params
        e_R, t_R = self._segment(ctx.t_R.cpu())
        draws_R = ctx.uniform("s").double().cpu()
        s_R = e_R + p.gap + (draws_R * (t_R - e_R - 2 * p.gap).clamp(min=0)).long()
        by_R = torch.where(t_R >= p.two_hops, s_R, t_R)

        def null(z, at_R, only_R=None):
            return ctx.predict(z, at_R, ctx.empty_RLD, only_R=only_R)

        offset = p.offset_noise * ctx.normal("offset", (ctx.x_RCHW.shape[1], 1, 1), fixed=True)
        x_e = ctx.add_noise(ctx.x_RCHW, ctx.normal("noise", fixed=True) + offset, e_R)
        x_t = walk(ctx, x_e, [e_R, by_R, t_R], null)
        eps = ctx.guided(x_t, t_R)
        x_s = ctx.ddim(x_t, eps, t_R, s_R)
        by_s = ctx.ddim(x_s, null(x_s, s_R), s_R, e_R)
        direct = ctx.ddim(x_t, eps, t_R, e_R)
        w_R = self.weight(t_R.to(ctx.device))
        return w_R[:, None, None, None] * ((by_s - x_e) + (ctx.cfg_scale + 1) * (x_e - direct))

    def _segment(self, t_R):
        """(e, t): the edge below t, and t at least `least` above it."""
        p = self.params
        edges = [p.bottom + (p.top - p.bottom) * k // p.segments for k in range(p.segments)]
        index_R = torch.bucketize(t_R, torch.tensor(edges), right=True) - 1
        e_R = torch.tensor(edges)[index_R.clamp(min=0)]
        return e_R, torch.maximum(t_R, e_R + p.least)
