"""RFDS-Rev: RFDS whose noise is first taken back along the flow to the one that the render came from."""

from typing import ClassVar, Literal

from harness.distill.method import GradientContext, Method, MethodParams


class Params(MethodParams):
    """`stride` of the step back to noise: "rest" is 1−σ, what is left of the way; "whole" is 1."""

    stride: Literal["rest", "whole"] = "rest"


class ReversedRectifiedFlowDistillation(Method):
    Params = Params
    presets: ClassVar = {"instaflow": {"stride": "whole"}}
    nfe = 3
    recommended: ClassVar = {
        "guidance.cfg_scale": 50.0,
        "guidance.t_range": [0.02, 0.98],
        "optim.lr": 0.03,
    }

    def gradient(self, ctx: GradientContext):
        left = 1 - ctx.flow_sigma(ctx.t_R)
        # ε ← ε + stride·(v̂(x_σ, y) + x − ε), and v̂ + x − ε = (ε̂ − ε)/(1−σ).
        eps = ctx.predict(ctx.x_t_RCHW, ctx.t_R, ctx.cond_RLD)
        stride = 1 if self.params.stride == "whole" else left
        noise = ctx.noise_RCHW + stride * (eps - ctx.noise_RCHW) / left
        guided = ctx.guided(ctx.add_noise(ctx.x_RCHW, noise, ctx.t_R), ctx.t_R)
        return (guided - noise) / left
