"""RFDS: rectified flow distillation, SDS in the velocity of a rectified flow."""

from typing import ClassVar, Literal

from harness.distill.method import GradientContext, Method, MethodParams


class Params(MethodParams):
    """`weight`: drawn anew at every step as the sigmoid of a standard normal, or 1."""

    weight: Literal["sigmoid", "one"] = "sigmoid"


class RectifiedFlowDistillation(Method):
    Params = Params
    presets: ClassVar = {"instaflow": {"weight": "one"}}
    recommended: ClassVar = {
        "guidance.cfg_scale": 50.0,
        "guidance.t_range": [0.02, 0.98],
        "optim.lr": 0.03,
    }

    def gradient(self, ctx: GradientContext):
        # v̂ − (ε − x) = (ε̂ − ε)/(1−σ), as x_σ is known.
        g = (ctx.eps_RCHW - ctx.noise_RCHW) / (1 - ctx.flow_sigma(ctx.t_R))
        return g if self.params.weight == "one" else ctx.normal("weight", (1, 1, 1)).sigmoid() * g
