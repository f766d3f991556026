"""What docs/protocol.md says of the convergence estimators, on fewer studies."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.eval.convergence_simulation import FASTER, checkpoints, covers, own_n

STUDIES, RESAMPLES = 60, 200


@pytest.mark.parametrize("ratio", [FASTER, 1.0])
def test_the_interval_of_the_ratio_covers_and_tells_most_at_80_percent(ratio: float) -> None:
    found = checkpoints(153, ratio, STUDIES, RESAMPLES)
    faster = {}
    for share, studies in found.items():
        held = np.mean([covers(one.low, one.high, ratio) for one in studies])
        assert held >= 0.9, share
        faster[share] = np.mean([one.high < 1 for one in studies])
    open_ended = {
        share: np.mean([math.isinf(one.high) for one in studies]) for share, studies in found.items()
    }
    assert open_ended[0.8] < 0.1 < open_ended[0.95] < open_ended[1.0]
    if ratio == 1:
        assert max(faster.values()) <= 0.1, "no effect is seldom taken for one"
    else:
        assert faster[0.8] > 0.35 > faster[0.95] > faster[1.0]
        assert np.median([one.value for one in found[0.8]]) == pytest.approx(ratio, abs=0.05)


@pytest.mark.parametrize("ratio", [FASTER, 1.0])
def test_brackets_of_own_n_hold_the_ratio_and_claim_nothing_finer_than_their_grid(ratio: float) -> None:
    for share, studies in own_n(153, ratio, STUDIES, RESAMPLES).items():
        ratios = [one.ratio for one in studies]
        assert np.mean([covers(one.outer_low, one.outer_high, ratio) for one in ratios]) >= 0.95, share
        assert not any(one.outer_high < 1 for one in ratios), "N that double cannot tell .65 from 1"
