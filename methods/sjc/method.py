"""SJC: score Jacobian chaining, the averaged score of perturbed renders; SDS with the weight 1."""

from typing import ClassVar

from harness.distill.method import GradientContext, Method, MethodParams


class Params(MethodParams):
    """`variance_reduced`: the render is subtracted from its denoised self, instead of its noised self."""

    variance_reduced: bool = True


class ScoreJacobianChaining(Method):
    Params = Params
    recommended: ClassVar = {"guidance.cfg_scale": 101.0, "guidance.t_range": [0.01, 0.97]}

    def gradient(self, ctx: GradientContext):
        # −(D − x)/σ, or −(D − z)/σ, of D = z − σ·ε̂ at z = x + σ·ε.
        return ctx.eps_RCHW - ctx.noise_RCHW if self.params.variance_reduced else ctx.eps_RCHW
