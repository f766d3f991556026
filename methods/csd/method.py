"""CSD: classifier score distillation, the guidance alone, with a negative prompt that comes in by and by."""

from typing import ClassVar

from pydantic import Field

from harness.distill.method import GradientContext, Method, MethodParams


class Params(MethodParams):
    """Weights of ε(y), ε(negative), ε(∅) and ε; pairs are those at the beginning and after the share `over`
    of the run, from when on t stays below `late_t_max` of T, too."""

    cond: float = 1.0
    negative: tuple[float, float] = (0.0, -1.0)
    null: tuple[float, float] = (-1.0, 0.0)
    noise: float = 0.0
    negative_prompt: str = "oversaturated color, ugly, tiling, low quality, noisy"
    over: float = Field(default=0.5, gt=0, le=1)
    late_t_max: float = Field(default=0.5, gt=0, le=1)


class ClassifierScoreDistillation(Method):
    Params = Params
    presets: ClassVar = {
        "plain": {"negative": (0.0, 0.0), "null": (-1.0, -1.0), "late_t_max": 1.0},
        "refine": {"negative": (-1.0, -0.5), "null": (0.0, -0.5), "over": 1.0},
    }
    nfe = (2, 3)
    recommended: ClassVar = {"optim.lr": 1e-3, "optim.betas": [0.9, 0.999]}

    def timesteps(self, step_R, total_R, draws_R):
        p = self.params
        return self.two_stages(step_R, total_R, draws_R, p.over, p.late_t_max)

    def gradient(self, ctx: GradientContext):
        p = self.params
        share_R = (ctx.progress_R / p.over).clamp(max=1.0)[:, None, None, None]

        def now(ends):
            return ends[0] + (ends[1] - ends[0]) * share_R

        conds = [ctx.empty_RLD, ctx.embed(p.negative_prompt)] if any(p.negative) else [ctx.empty_RLD]
        cond, null, *negative = ctx.predict(ctx.x_t_RCHW, ctx.t_R, ctx.cond_RLD, *conds)
        g = p.cond * cond + now(p.null) * null + p.noise * ctx.noise_RCHW
        for eps in negative:
            g = g + now(p.negative) * eps
        return self.weight(ctx.t_R)[:, None, None, None] * g
