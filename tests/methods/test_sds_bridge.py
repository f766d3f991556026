"""SDS-Bridge against its definition (arXiv 2406.09417)."""

from torch import Tensor

from harness.guidance.prior import Guidance
from tests.methods import plain


def test_a_step_of_either_stage(any_prior: Guidance) -> None:
    def definition(run: plain.Run, t: int) -> Tensor:
        z = run.noised(run.x, run.noise, t)
        if run.step <= 10:  # of 20
            g = run.cfg(z, t) - run.noise
        else:
            g = 7.5 * (run.eps(z, t, f"{run.prompt}, fine") - run.eps(z, t, f"{run.prompt}, foul"))
        return run.q(t) ** 2 * g

    prior = plain.changed(any_prior, weighting="sds")
    ctx = plain.context(prior, [100, 500, 900], i=[10, 11, 20])
    method = plain.made("sds_bridge", prior, target=", fine", source=", foul")
    assert plain.check(method, prior, ctx, definition) == [2, 2, 2]
