"""CSD against its definition (arXiv 2310.19415)."""

from collections.abc import Callable

import pytest
from torch import Tensor

from harness.guidance.prior import Guidance
from tests.methods import plain

NEGATIVE = "ugly"


def mixture(cond: float, negative: float, null: float) -> Callable[[plain.Run, int], Tensor]:
    def definition(run: plain.Run, t: int) -> Tensor:
        z = run.noised(run.x, run.noise, t)
        against = run.eps(z, t, NEGATIVE)
        g = cond * run.eps(z, t, run.prompt) + negative * against + null * run.eps(z, t, "")
        return run.q(t) ** 2 * g

    return definition


@pytest.mark.parametrize(
    ("i", "negative", "null"), [(5, -0.5, -0.5), (8, -0.8, -0.2), (10, -1, 0), (20, -1, 0)]
)
def test_a_step(any_prior: Guidance, i: int, negative: float, null: float) -> None:
    prior = plain.changed(any_prior, weighting="sds")
    ctx = plain.context(prior, [100, 500, 900], i=i)  # of 20 steps
    method = plain.made("csd", prior, negative_prompt=NEGATIVE)
    assert plain.check(method, prior, ctx, mixture(1, negative, null)) == [3, 3, 3]


def test_the_refinement(prior: Guidance) -> None:
    prior = plain.changed(prior, weighting="sds")
    ctx = plain.context(prior, [100, 300, 499], i=10)
    method = plain.made("csd", prior, preset="refine", negative_prompt=NEGATIVE)
    plain.check(method, prior, ctx, mixture(1, -0.75, -0.25))


def test_sds_is_one_of_its_mixtures(prior: Guidance) -> None:
    s = 7.5
    ctx = plain.context(prior, [100, 500, 900])
    as_sds = plain.made("csd", prior, cond=s, negative=(0, 0), null=(1 - s, 1 - s), noise=-1)
    found, told = as_sds.gradient(ctx), plain.made("uniform_sds", prior).gradient(ctx)
    assert float((found - told).abs().max()) < 1e-3 * float(told.abs().max())


def test_the_plain_form_is_the_guidance_alone_at_two_evaluations(prior: Guidance) -> None:
    ctx = plain.context(prior, [100, 500, 900])
    found = plain.made("csd", prior, preset="plain").gradient(ctx)
    assert ctx.nfe_R.tolist() == [2, 2, 2]
    assert float((found - (ctx.eps_cond_RCHW - ctx.eps_uncond_RCHW)).abs().max()) < 1e-5


def test_timesteps(prior: Guidance) -> None:
    method = plain.made("csd", prior)
    assert plain.timesteps(method, [1, 10, 11, 20], 20, 0.0) == [20] * 4
    assert plain.timesteps(method, [1, 10, 11, 20], 20, 0.999999) == [980, 980, 500, 500]
    low = plain.made("csd", plain.changed(prior, t_range=(0.6, 0.9)))
    assert plain.timesteps(low, [1, 20], 20, 0.999999) == [900, 600]
