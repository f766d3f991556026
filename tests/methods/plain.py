"""A step of a method as its definition has it: run by run, float64, the prior a black box ε(x, t, y)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.config import GuidanceConfig
from harness.distill.context import GradientContext
from harness.distill.method import Method, NoiseSchedule, load_method
from harness.guidance.prior import Guidance
from harness.rng import Key
from harness.scene.cameras import make
from harness.scene.contract import View

KEYS = [Key("a red mug", 0), Key("a bus", 1), Key("a red mug", 2)]
VIEWS = ["front", "side", "back"]
SCALE = 7.5


def load(folder: Path) -> Guidance:
    """The prior of a folder, at the CFG scale of these tests."""
    settings = {"prior": str(folder), "dtype": "float32", "microbatch": 1, "cfg_scale": SCALE}
    return Guidance.load(GuidanceConfig.model_validate(settings), local_files_only=True)


def changed(prior: Guidance, **settings: Any) -> Guidance:
    """The same prior under other settings of config.guidance."""
    other = copy.copy(prior)
    other.cfg = prior.cfg.model_copy(update=settings)
    return other


def context(prior: Guidance, t: list[int], i: int | list[int] = 5, total: int = 20) -> GradientContext:
    """Step i of as many runs as there are timesteps."""
    runs = len(t)
    x = torch.randn(3, *prior.latent_shape, generator=torch.Generator().manual_seed(0))[:runs]
    view = View(x.requires_grad_() * 1.0, torch.rand(runs, 4, 4))
    cameras = make(*([value + 90.0 * r for r in range(runs)] for value in (0.0, 15.0, 2.0, 40.0)))
    steps = torch.tensor(i).expand(runs) if isinstance(i, int) else torch.tensor(i)
    totals = torch.full((runs,), total)
    return GradientContext(prior, KEYS[:runs], steps, totals, torch.tensor(t), view, cameras, VIEWS[:runs])


def made(name: str, prior: Guidance, **params: Any) -> Method:
    """A method with these settings for this prior."""
    cls = load_method(name)
    noise = NoiseSchedule(prior.alphas_cumprod_T, *prior.t_range)
    return cls(cls.resolve(params, name), noise, prior.cfg.weighting)


def timesteps(method: Method, steps: list[int], total: int, draw: float = 0.0) -> list[int]:
    """t of these steps, at one draw of [0, 1)."""
    step_R = torch.tensor(steps)
    draws_R = torch.full((len(steps),), draw)
    return method.timesteps(step_R, torch.full_like(step_R, total), draws_R).tolist()


class Run:
    """Run r of a step; everything is float64 [C,H,W] and written out, t = −1 is the clean latent."""

    def __init__(self, ctx: GradientContext, prior: Guidance, r: int):
        self.ctx, self.prior, self.r, self.nfe = ctx, prior, r, 0
        self.x, self.noise = ctx.x_RCHW[r].double(), ctx.noise_RCHW[r].double()
        self.step, self.total = int(ctx.step_R[r]), int(ctx.total_R[r])
        self.prompt = f"{KEYS[r].prompt}, {VIEWS[r]} view"
        if prior.prediction_type == "flow":
            # At σ = 1 nothing is left of x: docs/priors.md says what stands for it.
            sigma_T = prior.family.parts.scheduler.sigmas.double().sort().values.clamp(max=1 - 2.0**-12)
            norm_T = (sigma_T**2 + (1 - sigma_T) ** 2).sqrt()
            self._a, self._q = (1 - sigma_T) / norm_T, sigma_T / norm_T
        else:
            alpha_T = prior.alphas_cumprod_T.double()
            self._a, self._q = alpha_T.sqrt(), (1 - alpha_T).sqrt()

    def a(self, t: int) -> float:
        return 1.0 if t < 0 else float(self._a[t])

    def q(self, t: int) -> float:
        return 0.0 if t < 0 else float(self._q[t])

    def normal(self, name: str, *shape: int, fixed: bool = False) -> Tensor:
        return self.ctx.normal(name, shape or None, fixed)[self.r].double()

    def uniform(self, name: str) -> float:
        return float(self.ctx.uniform(name)[self.r].double())

    def eps(self, z: Tensor, t: int, text: str) -> Tensor:
        self.nfe += 1
        cond = self.prior.embed([text])
        return self.prior.predict(z.float()[None], torch.tensor([t]), cond)[0][0].double()

    def cfg(self, z: Tensor, t: int, scale: float = SCALE, negative: str = "") -> Tensor:
        null = self.eps(z, t, negative)
        return null + scale * (self.eps(z, t, self.prompt) - null)

    def noised(self, x: Tensor, e: Tensor, t: int) -> Tensor:
        return self.a(t) * x + self.q(t) * e

    def clean(self, z: Tensor, e: Tensor, t: int) -> Tensor:
        return (z - self.q(t) * e) / self.a(t)

    def hop(self, z: Tensor, e: Tensor, u: int, v: int) -> Tensor:
        return self.noised(self.clean(z, e, u), e, v)


def check(
    method: Method, prior: Guidance, ctx: GradientContext, definition: Callable[[Run, int], Tensor]
) -> list[int]:
    """The method's step is the definition's, of which every evaluation is counted; the runs' evaluations."""
    found = method.gradient(ctx)
    for r, t in enumerate(ctx.t_R.tolist()):
        run = Run(ctx, prior, r)
        expected = definition(run, t)
        off = float((found[r].double() - expected).abs().max() / expected.abs().max())
        assert off < 2e-3, (r, t, off)
        assert int(ctx.nfe_R[r]) == run.nfe, (r, t)
    return ctx.nfe_R.tolist()
