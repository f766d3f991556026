"""Ranges that move: their ends at and around the turns."""

import pytest

from harness.guidance.prior import Guidance
from tests.methods import plain

ALMOST = 0.999999


@pytest.mark.parametrize(
    ("preset", "steps", "low", "high"),
    [
        ("prolificdreamer", [1, 20, 21, 100], [20] * 4, [980, 980, 500, 500]),
        ("magic3d", [1, 50, 51, 100], [20] * 4, [980, 980, 500, 500]),
        ("mvdream", [20, 40, 80, 100], [740, 500, 20, 20], [860, 740, 500, 500]),
    ],
)
def test_ranges(prior: Guidance, preset: str, steps: list[int], low: list[int], high: list[int]) -> None:
    method = plain.made("annealed_range", prior, preset=preset)
    assert plain.timesteps(method, steps, 100, 0.0) == low
    assert plain.timesteps(method, steps, 100, ALMOST) == high


def test_every_timestep_of_the_range_is_drawn(prior: Guidance) -> None:
    method = plain.made("annealed_range", prior, low=(0.5, 0.5), high=(0.502, 0.502))
    drawn = [plain.timesteps(method, [3], 100, k / 300)[0] for k in range(300)]
    assert {t: drawn.count(t) for t in drawn} == {500: 100, 501: 100, 502: 100}
