"""NFSD against its definition (arXiv 2310.17590)."""

from torch import Tensor

from harness.guidance.prior import Guidance
from tests.methods import plain


def test_a_step(any_prior: Guidance) -> None:
    def definition(run: plain.Run, t: int) -> Tensor:
        z = run.noised(run.x, run.noise, t)
        null, against = run.eps(z, t, ""), run.eps(z, t, "ugly")
        domain = null if t < 200 else null - against
        return run.q(t) ** 2 * (7.5 * (run.eps(z, t, run.prompt) - null) + domain)

    prior = plain.changed(any_prior, weighting="sds")
    ctx = plain.context(prior, [199, 200, 900])
    method = plain.made("nfsd", prior, negative_prompt="ugly")
    assert plain.check(method, prior, ctx, definition) == [3, 3, 3]
