"""HiFA: the residual to a denoised latent, and to its picture, with t falling by a square root."""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field

from harness.distill.inversion import walk
from harness.distill.method import GradientContext, Level, Method, MethodParams, in_order


class Params(MethodParams):
    """Levels are of T = 1000. `decay`: how t falls from `high` to `low`, or is drawn; `hops`: of DDIM, over
    the whole of T; `pixels`: weight of the picture's residual; `weighting`: what the strength is times."""

    high: Level = 980
    low: Level = 300
    decay: Literal["sqrt", "linear", "cosine", "random"] = "sqrt"
    hops: int = Field(default=4, ge=1, le=1000)
    eta: float = Field(default=1.0, ge=0, le=1)
    strength: float = Field(default=0.05, gt=0)
    weighting: Literal["constant", "noisematch", "sdslike", "strongerlower"] = "constant"
    pixels: float = Field(default=0.1, ge=0)
    clip: bool = False

    _falls = in_order("low", "high")


class HiFA(Method):
    Params = Params
    nfe = (2, 8)
    recommended: ClassVar = {"guidance.cfg_scale": 100.0, "guidance.perp_neg": 1.0}

    def timesteps(self, step_R, total_R, draws_R):
        p = self.params
        share_R = (step_R.double() - 1) / total_R
        if p.decay == "random":
            share_R = draws_R.double()
        elif p.decay == "sqrt":
            share_R = share_R.sqrt()
        elif p.decay == "cosine":
            share_R = 0.5 - 0.5 * (math.pi * share_R).cos()
        t_R = p.low + ((p.high - p.low) * (1 - share_R)).long()
        return t_R.clamp(self.noise.t_min, self.noise.t_max)

    def weight(self, t_R):
        alpha_R = self.noise.alphas_on(t_R.device)[t_R]
        factor_R = {
            "constant": torch.ones_like(alpha_R),
            "noisematch": (alpha_R / (1 - alpha_R)).sqrt(),
            "sdslike": (alpha_R * (1 - alpha_R)).sqrt(),
            "strongerlower": alpha_R / (1 - alpha_R).sqrt(),
        }[self.params.weighting]
        return self.params.strength * factor_R

    def gradient(self, ctx: GradientContext):
        p, x = self.params, ctx.x_RCHW
        clean = self._denoised(ctx)
        error = x - clean
        if p.clip:
            most = 200 * ctx.levels(ctx.t_R)[1]
            error = error.clamp(-most, most)
        if p.pixels:
            seen = x.clone().requires_grad_()
            picture = ctx.decode(seen)
            (pulled,) = torch.autograd.grad(picture, seen, picture.detach() - ctx.decode(clean))
            error = error + p.pixels * pulled
        return self.weight(ctx.t_R)[:, None, None, None] * error

    def _denoised(self, ctx: GradientContext):
        """x̂_0 by DDIM from x_t, in strides of T/hops down to level 0."""
        t_R, hops = ctx.t_R.cpu(), self.params.hops
        if hops == 1:
            return ctx.clean(ctx.x_t_RCHW, ctx.eps_RCHW, ctx.t_R)
        stride = len(self.noise.alphas_cumprod_T) // hops
        levels_KR = [(t_R - k * stride).clamp(min=0) for k in range(hops + 1)]
        return walk(
            ctx,
            ctx.x_t_RCHW,
            levels_KR,
            lambda z, at_R, only_R: ctx.guided(z, at_R, only_R=only_R),
            lambda k, z, eps, from_R, to_R: ctx.ddim(
                z, eps, from_R, to_R, self.params.eta, ctx.normal(f"hop {k}")
            ),
        )
