"""TP-SDS's cut prior against a plain argmin."""

import numpy as np

from harness.guidance.prior import Guidance
from tests.methods import plain


def test_pgc_keeps_to_its_range(prior: Guidance) -> None:
    t = np.arange(200, 800)
    weights = np.where(t < 500, np.exp(-((t - 500.0) ** 2) / (2 * 100**2)), 1.0)
    tails = (weights / weights.sum())[::-1].cumsum()[::-1]
    total = 200
    expected = [200 + int(np.abs(tails - i / total).argmin()) for i in range(1, total + 1)]
    found = plain.timesteps(plain.made("tp_sds", prior, preset="pgc"), list(range(1, total + 1)), total)
    assert found == expected
    assert found == sorted(found, reverse=True) and min(found) == 200 and max(found) < 800


def test_the_cut_is_none_by_default(prior: Guidance) -> None:
    steps = list(range(1, 101))
    whole = plain.timesteps(plain.made("tp_sds", prior), steps, 100)
    assert whole == plain.timesteps(plain.made("tp_sds", prior, floor=20, ceiling=980), steps, 100)
    assert whole[-1] == 20
