"""Walks along the probability-flow ODE: DDIM hops of each run's own length, and the inversion of SDI."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from harness.config import UserError
from harness.device import upload
from harness.distill.context import GradientContext
from harness.distill.method import LEVELS, Method, MethodParams

_OF_LEVELS = ("low", "high", "high_start", "interval", "interval_start", "stride")
Noise = Callable[[Tensor, Tensor, Tensor], Tensor]  # (z_RCHW, t_R, only_R) → ε̂
Hop = Callable[[int, Tensor, Tensor, Tensor, Tensor], Tensor]  # (k, z_RCHW, ε̂, from_R, to_R) → z_RCHW


class IntervalMethod(Method):
    """What LucidDreamer (arXiv 2311.11284) and its heirs share; their settings have `strength`, `warm`, and
    `low` and `high`, between which t is drawn."""

    recommended: ClassVar = {
        "guidance.cfg_scale": 7.5,
        "guidance.negative": (
            "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, low-resolution, "
            "oversaturation."
        ),
    }

    @classmethod
    def resolve(cls, params: Mapping[str, Any], name: str = "") -> MethodParams:
        """See `Method.resolve`; raises UserError, too, for levels beyond T = 1000 and where no t is left."""
        found = super().resolve(params, name)
        levels = {key: getattr(found, key) for key in _OF_LEVELS if hasattr(found, key)}
        for key, value in levels.items():
            if value > LEVELS:
                raise UserError(f"method {name}, {key}: levels are of T = {LEVELS} (got {value})")
            if key in ("high", "high_start") and value <= levels["low"]:
                raise UserError(f"method {name}, {key}={value} is not above low={levels['low']}")
        return found

    def weight(self, t_R: Tensor) -> Tensor:
        """strength·√((1−ᾱ)/ᾱ), [R]."""
        alpha_R = self.noise.alphas_on(t_R.device)[t_R]
        return self.params.strength * ((1 - alpha_R) / alpha_R).sqrt()

    def warmth(self, step_R: Tensor, total_R: Tensor) -> Tensor:
        """From 1 at the beginning to 0 at the end of the first `warm` of a run, float64 [R]."""
        if not self.params.warm:
            return torch.zeros_like(step_R, dtype=torch.float64)
        return (1 - step_R.double() / (self.params.warm * total_R)).clamp(min=0)


def walk(
    ctx: GradientContext, z_RCHW: Tensor, levels_KR: Sequence[Tensor], noise: Noise, hop: Hop | None = None
) -> Tensor:
    """z at the last of the levels, int64 [R] on the CPU each, by a hop of DDIM from each to the next.

    A run whose next level is the one it is at waits there, and nothing is evaluated for it: runs with fewer
    hops repeat their last level.
    """
    for k, (from_R, to_R) in enumerate(pairwise(levels_KR)):
        moves_R = from_R != to_R
        if moves_R.any():
            eps_RCHW = noise(z_RCHW, from_R, moves_R)
            there_RCHW = (
                ctx.ddim(z_RCHW, eps_RCHW, from_R, to_R)
                if hop is None
                else hop(k, z_RCHW, eps_RCHW, from_R, to_R)
            )
            # What waits is not computed anew: its bits would depend on how far the others go.
            z_RCHW = torch.where(upload(moves_R, ctx.device)[:, None, None, None], there_RCHW, z_RCHW)
    return z_RCHW


def inverted(
    ctx: GradientContext, t_R: Tensor, scale: float, eta: float, stride: int, last: int
) -> tuple[Tensor, Tensor]:
    """(z, L): the render x inverted by DDIM to L = min(t + d, last), d ~ U{0, …, stride−1} (SDI).

    Levels are 0, 1, 1 + stride, … below t, then L; ε̂ is guided by `scale`, and every hop u → v adds
    η·√((1−ᾱ_u)/(1−ᾱ_v)·(1 − ᾱ_v/ᾱ_u)) of noise. t and L are int64 [R] on the CPU.
    """
    offset_R = (ctx.uniform("inversion length").double().cpu() * stride).long()
    last_R = (t_R + offset_R).clamp(max=last)
    grid = [torch.where(t_R > level, level, last_R) for level in range(1, last, stride)]

    def hop(k: int, z: Tensor, eps: Tensor, from_R: Tensor, to_R: Tensor) -> Tensor:
        (signal_u, noise_u), (signal_v, noise_v) = ctx.levels(from_R), ctx.levels(to_R)
        spread = noise_u / noise_v * (1 - (signal_v / signal_u) ** 2).clamp(min=0).sqrt()
        return ctx.ddim(z, eps, from_R, to_R) + eta * spread * ctx.normal(f"inversion {k}")

    z_RCHW = walk(
        ctx,
        ctx.x_RCHW,
        [torch.zeros_like(t_R), *grid, last_R],
        lambda z, at_R, only_R: ctx.guided(z, at_R, scale, only_R=only_R),
        hop,
    )
    return z_RCHW, last_R
