"""ASD: asynchronous score distillation, the prior a little later stands for the render's own score."""

from typing import ClassVar

import torch
from pydantic import Field

from harness.distill.method import GradientContext, Method, MethodParams


class Params(MethodParams):
    """t ~ U, its bounds moving in equal strides from [middle·T, t_max] to [t_min, middle·T]; the later
    timestep is up to the share `plus` of t's distance from the lower bound further on."""

    middle: float = Field(default=0.5, ge=0, le=1)
    plus: float = Field(default=0.1, ge=0)


class AsynchronousScoreDistillation(Method):
    Params = Params
    nfe = 3
    recommended: ClassVar = {
        "guidance.cfg_scale": 7.5,
        "guidance.weighting": "sds",
        "guidance.perp_neg": 0.5,
        "optim.betas": [0.0, 0.99],
    }

    def timesteps(self, step_R, total_R, draws_R):
        progress_R = step_R / total_R.double()
        low_R = self._low(progress_R)
        high_R = self.noise.t_max + ((self._middle - self.noise.t_max) * progress_R).long()
        return low_R + (draws_R.double() * (high_R - low_R + 1)).long()

    def gradient(self, ctx: GradientContext):
        low_R = self._low(ctx.step_R / ctx.total_R.double())
        beyond_R = self.params.plus * (ctx.t_R - low_R).clamp(min=0) * ctx.uniform("plus").double()
        later_R = (ctx.t_R + beyond_R.long()).clamp(max=len(self.noise.alphas_cumprod_T) - 1)
        x_later = ctx.add_noise(ctx.x_RCHW, ctx.noise_RCHW, later_R)
        own = ctx.predict(x_later, later_R, ctx.cond_RLD)
        return self.weight(ctx.t_R)[:, None, None, None] * (ctx.eps_RCHW - own)

    @property
    def _middle(self) -> int:
        middle = int(self.params.middle * len(self.noise.alphas_cumprod_T))
        return min(max(middle, self.noise.t_min), self.noise.t_max)

    def _low(self, progress_R: torch.Tensor) -> torch.Tensor:
        """The lower bound of t."""
        return self._middle + ((self.noise.t_min - self._middle) * progress_R).long()
