"""Consistent3D against its definition (arXiv 2401.09050), in the variance-exploding form of its authors."""

from torch import Tensor

from harness.guidance.prior import Guidance
from tests.methods import plain


def definition(run: plain.Run, t: int) -> Tensor:
    far = min(t + 100 + int(200 * run.uniform("gap")), 980)
    sigma, sigma_far = (run.q(level) / run.a(level) for level in (t, far))
    scale = 7.5 * (1 - 0.5 * run.step / run.total)
    z = run.x + sigma_far * run.normal("star", fixed=True)
    eps_far = run.cfg(z / (1 + sigma_far**2) ** 0.5, far, scale)
    z = z + (sigma - sigma_far) * eps_far
    return run.q(far) ** 2 * (eps_far - run.cfg(z / (1 + sigma**2) ** 0.5, t, scale))


def test_a_step(any_prior: Guidance) -> None:
    prior = plain.changed(any_prior, weighting="sds")
    ctx = plain.context(prior, [100, 500, 880], i=[1, 10, 20])
    assert plain.check(plain.made("consistent3d", prior, clip=None), prior, ctx, definition) == [4, 4, 4]


def test_every_element_is_bounded(prior: Guidance) -> None:
    def bounded(run: plain.Run, t: int) -> Tensor:
        bound = 0.1 + 0.2 * run.step / run.total
        g = definition(run, t)
        assert g.abs().max() > bound
        return g.clamp(-bound, bound)

    prior = plain.changed(prior, weighting="sds")
    ctx = plain.context(prior, [100, 500, 880], i=[1, 10, 20])
    plain.check(plain.made("consistent3d", prior, clip=(0.1, 0.3)), prior, ctx, bounded)


def test_timesteps(prior: Guidance) -> None:
    coarse, refine = plain.made("consistent3d", prior), plain.made("consistent3d", prior, preset="refine")
    assert plain.timesteps(coarse, [1, 25, 64, 100], 100) == [640, 400, 220, 100]
    assert plain.timesteps(refine, [1, 25, 64, 100], 100) == [272, 160, 76, 20]
    narrow = plain.made("consistent3d", plain.changed(prior, t_range=(0.3, 0.5)))
    assert plain.timesteps(narrow, [1, 25, 100], 100) == [400, 400, 300]
