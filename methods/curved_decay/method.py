"""Curved decay: SDS with t falling along a root, a cosine or a staircase from t_max to t_min."""

import math
from typing import Literal

from pydantic import Field

from harness.distill.method import MethodParams


class Params(MethodParams):
    """The share of the way is (i/N)^power, or (1 − cos(π·i/N))/2; `stages`: the way in so many equal parts, t
    being the middle of each, or `drawn` from it."""

    curve: Literal["power", "cosine"] = "power"
    power: float = Field(default=0.5, gt=0)
    stages: int | None = Field(default=None, ge=1)
    drawn: bool = False


presets = {
    "sqrt": {},
    "cbrt": {"power": 1 / 3},
    "cosine": {"curve": "cosine"},
    "stages": {"power": 1.0, "stages": 5},
    "stages_drawn": {"power": 1.0, "stages": 5, "drawn": True},
}


def timestep(progress, draw, noise, params):
    """t = t_max − (t_max − t_min)·way."""
    way = (1 - math.cos(math.pi * progress)) / 2 if params.curve == "cosine" else progress**params.power
    if params.stages is not None:
        within = draw if params.drawn else 0.5
        way = (min(int(way * params.stages), params.stages - 1) + within) / params.stages
    return noise.t_max - (noise.t_max - noise.t_min) * way
