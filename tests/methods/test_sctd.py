"""SCTD against its definition (arXiv 2507.05256)."""

import pytest
import torch

from harness.guidance.prior import Guidance
from tests.methods import plain

UGLY = "ugly, dull"
EDGES = [20, 212, 404, 596, 788]


def definition(run: plain.Run, t: int) -> torch.Tensor:
    e = max((edge for edge in EDGES if edge <= t), default=20)
    t = max(t, e + 80)
    s = e + 10 + int(run.uniform("s") * (t - e - 20))
    offset = 0.1 * run.normal("offset", run.x.shape[0], 1, 1, fixed=True)
    start = run.noised(run.x, run.normal("noise", fixed=True) + offset, e)
    if t >= 150:
        by = run.hop(start, run.eps(start, e, ""), e, s)
        z = run.hop(by, run.eps(by, s, ""), s, t)
    else:
        z = run.hop(start, run.eps(start, e, ""), e, t)
    guided = run.cfg(z, t, negative=UGLY)
    x_s = run.hop(z, guided, t, s)
    by_s = run.hop(x_s, run.eps(x_s, s, ""), s, e)
    direct = run.hop(z, guided, t, e)
    return 0.1 * run.q(t) / run.a(t) * ((by_s - start) + (plain.SCALE + 1) * (start - direct))


def test_a_step(any_prior: Guidance) -> None:
    prior = plain.changed(any_prior, negative=UGLY)
    ctx = plain.context(prior, [120, 420, 940])  # 420 is raised to 404 + 80
    assert plain.check(plain.made("sctd", prior), prior, ctx, definition) == [4, 5, 5]


@pytest.mark.parametrize(
    ("step", "draw", "t"),
    [
        (5000, 0.0, 100),  # 21 raised to 20 + 80
        (5000, 0.4, 292),  # 21 + 191 = 212, an edge itself
        (5000, 0.999999, 500),
        (750, 0.0, 292),  # half of the warm-up: 21 + 240 = 261
        (1, 0.999999, 979),
    ],
)
def test_timesteps(prior: Guidance, step: int, draw: float, t: int) -> None:
    assert plain.timesteps(plain.made("sctd", prior), [step], 5000, draw) == [t]
