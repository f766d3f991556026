"""HiFA against its definition (arXiv 2305.18766)."""

import math

import pytest
import torch

from harness.guidance.prior import Guidance
from tests.methods import plain


def denoised(run: plain.Run, t: int) -> torch.Tensor:
    """x̂_0 by ancestral DDIM in strides of 250, down to level 0."""
    z, k = run.noised(run.x, run.noise, t), 0
    while t > 0:
        to = max(t - 250, 0)
        eps = run.cfg(z, t)
        variance = run.q(to) ** 2 / run.q(t) ** 2 * (1 - run.a(t) ** 2 / run.a(to) ** 2)
        along = math.sqrt(run.q(to) ** 2 - variance)
        z = run.a(to) * run.clean(z, eps, t) + along * eps + math.sqrt(variance) * run.normal(f"hop {k}")
        t, k = to, k + 1
    return z


def pixels(run: plain.Run, clean: torch.Tensor) -> torch.Tensor:
    """Jᵀ·(D(x) − D(x̂_0)), the Jacobian J of the decoder taken in float64."""
    vae = run.prior.family.parts.models["vae"].double()
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor or 0.0

    def picture(z: torch.Tensor) -> torch.Tensor:
        return (vae.decode(z[None] / scale + shift).sample[0] / 2 + 0.5).clamp(0, 1)

    try:
        x = run.x.clone().requires_grad_()
        image = picture(x)
        with torch.no_grad():
            residual = image - picture(clean)
        return torch.autograd.grad(image, x, residual)[0]
    finally:
        vae.float()


def definition(run: plain.Run, t: int) -> torch.Tensor:
    clean = denoised(run, t)
    return 0.05 * ((run.x - clean) + 0.1 * pixels(run, clean))


def clipped(run: plain.Run, t: int) -> torch.Tensor:
    """The residual cut at ±200·√(1−ᾱ), times ᾱ/√(1−ᾱ), in latents alone."""
    most = 200 * run.q(t)
    return 0.05 * run.a(t) ** 2 / run.q(t) * (run.x - denoised(run, t)).clamp(-most, most)


def test_a_step(any_prior: Guidance) -> None:
    ctx = plain.context(any_prior, [300, 500, 980])
    assert plain.check(plain.made("hifa", any_prior), any_prior, ctx, definition) == [4, 4, 8]


def test_a_clipped_step_in_latents(prior: Guidance) -> None:
    ctx = plain.context(prior, [40, 700, 980])
    method = plain.made("hifa", prior, pixels=0.0, clip=True, weighting="strongerlower")
    assert plain.check(method, prior, ctx, clipped) == [2, 6, 8]
    assert (ctx.x_RCHW[2] - method.gradient(ctx)[2]).abs().max() > 0


def test_one_hop_is_the_one_step_estimate(prior: Guidance) -> None:
    def one(run: plain.Run, t: int) -> torch.Tensor:
        z = run.noised(run.x, run.noise, t)
        return 0.05 * (run.x - run.clean(z, run.cfg(z, t), t))

    ctx = plain.context(prior, [300, 500, 980])
    assert plain.check(plain.made("hifa", prior, hops=1, pixels=0.0), prior, ctx, one) == [2, 2, 2]


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("sqrt", [980, 640, 300 + int(680 * (1 - math.sqrt(0.9999)))]),
        ("linear", [980, 810, 300]),
        ("cosine", [980, int(980 - 680 * (0.5 - 0.5 * math.cos(0.25 * math.pi))), 300]),
    ],
)
def test_timesteps(prior: Guidance, decay: str, expected: list[int]) -> None:
    assert plain.timesteps(plain.made("hifa", prior, decay=decay), [1, 2501, 10000], 10000) == expected


def test_drawn_timesteps(prior: Guidance) -> None:
    method = plain.made("hifa", prior, decay="random")
    assert [plain.timesteps(method, [9], 10, draw)[0] for draw in (0.0, 0.5, 0.999999)] == [980, 640, 300]
