"""UCM: unique couple matching, the flow's own noise of the render instead of a random one (FlowDreamer)."""

from typing import ClassVar

import torch
from pydantic import Field

from harness.distill.inversion import walk
from harness.distill.method import GradientContext, Level, Method, MethodParams, NoiseSchedule, in_order


class Params(MethodParams):
    """Levels are of T = 1000, counted from the smallest. t ~ U{low, …, high}; `warm`: the share of a run that
    takes random noise; `hops`: Euler steps from the render to its noise."""

    low: Level = 19
    high: Level = 699
    warm: float = Field(default=0.18, ge=0, le=1)
    hops: int = Field(default=3, ge=1, le=100)

    _range = in_order("low", "high")


class UniqueCoupleMatching(Method):
    Params = Params
    nfe = (2, 5)
    recommended: ClassVar = {
        "guidance.cfg_scale": 60.0,
        "guidance.negative": "unrealistic, blurry, low quality, oversaturation.",
    }

    def __init__(self, params: Params, noise: NoiseSchedule, weighting: str = "one"):
        super().__init__(params, noise, weighting)
        alpha_T = noise.alphas_cumprod_T.double()
        sigma_T = (1 - alpha_T).sqrt() / (alpha_T.sqrt() + (1 - alpha_T).sqrt())
        # σ = 0, 1/n, …, (n−1)/n: the step on to σ = 1, where nothing of x is left, ends at ε̂ itself.
        self.levels = [-1] + [int((sigma_T - k / params.hops).abs().argmin()) for k in range(1, params.hops)]

    def timesteps(self, step_R, total_R, draws_R):
        low, high = (
            min(max(t, self.noise.t_min), self.noise.t_max) for t in (self.params.low, self.params.high)
        )
        return low + (draws_R.double() * (high - low + 1)).long()

    def gradient(self, ctx: GradientContext):
        is_coupled_R = ctx.step_R > self.params.warm * ctx.total_R
        coupled_R = is_coupled_R.cpu()
        levels_KR = [torch.where(coupled_R, level, -1) for level in self.levels]

        def with_prompt(z, at_R, only_R):
            return ctx.predict(z, at_R, ctx.cond_RLD, only_R=only_R)

        z = walk(ctx, ctx.x_RCHW, levels_KR, with_prompt)
        own = with_prompt(z, levels_KR[-1], coupled_R)
        noise = torch.where(is_coupled_R[:, None, None, None], own, ctx.noise_RCHW)
        x_t = ctx.add_noise(ctx.x_RCHW, noise, ctx.t_R)
        return ctx.velocity(x_t, ctx.guided(x_t, ctx.t_R), ctx.t_R) - (noise - ctx.x_RCHW)
