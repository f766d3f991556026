"""SJC against its definition (arXiv 2212.00774): z = x + σ·ε, and the denoised D(z; σ)."""

from torch import Tensor

from harness.guidance.prior import Guidance
from tests.methods import plain


def denoised(run: plain.Run, t: int) -> tuple[Tensor, Tensor, float]:
    sigma = run.q(t) / run.a(t)
    z = run.x + sigma * run.noise
    return z, z - sigma * run.cfg(z / (1 + sigma**2) ** 0.5, t), sigma


def test_a_step(any_prior: Guidance) -> None:
    def definition(run: plain.Run, t: int) -> Tensor:
        _, clean, sigma = denoised(run, t)
        return -(clean - run.x) / sigma

    prior = plain.changed(any_prior, weighting="sds")  # which it has no ear for
    ctx = plain.context(prior, [100, 500, 900])
    assert plain.check(plain.made("sjc", prior), prior, ctx, definition) == [2, 2, 2]


def test_a_step_without_the_reduced_variance(prior: Guidance) -> None:
    def definition(run: plain.Run, t: int) -> Tensor:
        z, clean, sigma = denoised(run, t)
        return -(clean - z) / sigma

    ctx = plain.context(prior, [100, 500, 900])
    plain.check(plain.made("sjc", prior, variance_reduced=False), prior, ctx, definition)
