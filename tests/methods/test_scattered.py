"""Scattered has the timesteps of the schedules it controls for, and neither their order nor another's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness.guidance.prior import Guidance
from tests.methods import plain


@pytest.mark.parametrize(
    ("settings", "falling", "preset"),
    [({}, "linear_decay", None), ({"preset": "iclr"}, "tp_sds", "iclr")],
)
def test_it_has_the_timesteps_of_a_falling_schedule(
    prior: Guidance, settings: dict[str, Any], falling: str, preset: str | None
) -> None:
    for total in (7, 20, 60, 121):
        steps = list(range(1, total + 1))
        ours = plain.timesteps(plain.made("scattered", prior, **settings), steps, total)
        theirs = plain.timesteps(
            plain.made(falling, prior, **({"preset": preset} if preset else {})), steps, total
        )
        assert sorted(ours) == sorted(theirs) and list(ours) != list(theirs)
        ranks = np.argsort(np.argsort(ours))
        assert abs(np.corrcoef(ranks, steps)[0, 1]) < 0.5, "it neither falls nor rises"
