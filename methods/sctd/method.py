"""SCTD: consistency within a segment of the trajectory, weighed against guidance (SegmentDreamer)."""

import torch
from pydantic import Field, model_validator

from harness.distill.inversion import IntervalMethod, walk
from harness.distill.method import LEVELS, GradientContext, Level, Levels, MethodParams, in_order


class Params(MethodParams):
    """Levels are of T = 1000. t ~ U{low, …, high − 1}, both of which fall by `warm_levels` during the first
    `warm` of a run; edges cut bottom … top into equal segments; t is at least `least` above its edge e,
    e + gap ≤ s < t − gap, and from `two_hops` on t is reached by way of s."""

    low: Level = Field(default=21, ge=1)
    high: Levels = Field(default=501, ge=2)
    warm_levels: Levels = 480
    warm: float = Field(default=0.3, ge=0, le=1)
    segments: int = Field(default=5, ge=1, le=LEVELS)
    bottom: Level = 20
    top: Levels = Field(default=980, ge=1)
    least: Level = Field(default=80, ge=1)
    gap: Level = 10
    two_hops: Levels = 150
    strength: float = Field(default=0.1, gt=0)
    offset_noise: float = Field(default=0.1, ge=0)

    _edges_rise = in_order("bottom", "top")

    @model_validator(mode="after")
    def _fits(self):
        if 2 * self.gap > self.least:
            raise ValueError(f"gap={self.gap} on both sides leaves no s within least={self.least}")
        if self.edges[-1] + self.least >= LEVELS:
            raise ValueError(
                f"least={self.least} above the last edge, {self.edges[-1]}, is beyond T = {LEVELS}"
            )
        return self

    @property
    def edges(self) -> list[int]:
        """Where segments begin."""
        return [self.bottom + (self.top - self.bottom) * k // self.segments for k in range(self.segments)]


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
        edges = self.params.edges
        index_R = torch.bucketize(t_R, torch.tensor(edges), right=True) - 1
        e_R = torch.tensor(edges)[index_R.clamp(min=0)]
        return e_R, torch.maximum(t_R, e_R + self.params.least)
