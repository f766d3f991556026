"""Knots: SDS with t falling along straight lines between knots, at random within a band around them."""

from typing import ClassVar

import torch
from pydantic import Field, field_validator

from harness.distill.method import Method, MethodParams


class Params(MethodParams):
    """`at`: t at equal parts of the run, from its beginning to its end, in percent of the way from t_min to
    t_max, not rising. `band`: the width of the band, in percent. `horizon`: the steps that the way takes,
    after which t stays where it ends; none: all N."""

    at: str = "100/0"
    band: float = Field(default=0.0, ge=0, le=200)
    horizon: int | None = Field(default=None, ge=1)

    @field_validator("at")
    @classmethod
    def _check(cls, text: str) -> str:
        try:
            knots = [float(part) for part in text.split("/")]
        except ValueError:
            raise ValueError("knots are percents such as 100/60/0") from None
        if len(knots) < 2 or not all(0 <= knot <= 100 for knot in knots):
            raise ValueError("knots are two or more percents, 0 to 100, such as 100/60/0")
        if knots != sorted(knots, reverse=True):
            raise ValueError("knots do not rise: t falls, as in 100/60/0")
        return text


class Knots(Method):
    Params = Params
    presets: ClassVar = {"found": {"at": "81/34/30/26/23", "band": 22.0}}

    def timesteps(self, step_R, total_R, draws_R):
        p = self.params
        knots_K = torch.tensor([float(part) for part in p.at.split("/")], dtype=torch.float64) / 100
        last = len(knots_K) - 1
        progress_R = (step_R.double() / (total_R.double() if p.horizon is None else p.horizon)).clamp(max=1)
        at_R = progress_R * last
        left_R = at_R.long().clamp(max=last - 1)
        share_R = at_R - left_R
        way_R = knots_K[left_R] * (1 - share_R) + knots_K[left_R + 1] * share_R
        way_R = (way_R + p.band / 100 * (draws_R.double() - 0.5)).clamp(0, 1)
        return self.noise.t_min + ((self.noise.t_max - self.noise.t_min) * way_R + 0.5).floor().long()
