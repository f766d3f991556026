"""ASD against its definition (arXiv 2407.02040)."""

from math import floor

from torch import Tensor

from harness.guidance.prior import Guidance
from tests.methods import plain


def test_a_step(any_prior: Guidance) -> None:
    def definition(run: plain.Run, t: int) -> Tensor:
        low = int(500 - 480 * run.step / run.total)
        later = min(t + floor(0.1 * max(t - low, 0) * run.uniform("plus")), 999)
        own = run.eps(run.noised(run.x, run.noise, later), later, run.prompt)
        return run.q(t) ** 2 * (run.cfg(run.noised(run.x, run.noise, t), t) - own)

    prior = plain.changed(any_prior, weighting="sds")
    ctx = plain.context(prior, [300, 700, 980], i=[19, 10, 5])
    assert plain.check(plain.made("asd", prior), prior, ctx, definition) == [3, 3, 3]


def test_a_later_timestep_stays_on_the_noise_schedule(prior: Guidance) -> None:
    ctx = plain.context(prior, [980, 980, 980])
    plain.made("asd", prior, plus=50).gradient(ctx)
    assert ctx.nfe_R.tolist() == [3, 3, 3]


def test_timesteps(prior: Guidance) -> None:
    method = plain.made("asd", prior)
    assert plain.timesteps(method, [0, 10, 20], 20, 0.0) == [500, 260, 20]
    assert plain.timesteps(method, [0, 10, 20], 20, 0.999999) == [980, 740, 500]
    narrow = plain.made("asd", plain.changed(prior, t_range=(0.1, 0.4)))
    assert plain.timesteps(narrow, [0, 10, 20], 20, 0.999999) == [400] * 3
