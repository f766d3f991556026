"""Annealed range: SDS with t drawn from a range that narrows or falls during the run."""

from typing import Annotated

from pydantic import Field, model_validator

from harness.distill.method import MethodParams, in_order

Share = Annotated[float, Field(ge=0, le=1)]
Ends = tuple[Share, Share]


class Params(MethodParams):
    """Bounds of t as shares of the way from t_min to t_max: `low` and `high` are at their first number until
    the share `begin` of the run, at their second from `until` on, and move in equal strides between."""

    low: Ends = (0.0, 0.0)
    high: Ends = (1.0, 0.5)
    begin: Share = 0.2
    until: Share = 0.2

    _moves = in_order("begin", "until")

    @model_validator(mode="after")
    def _is_a_range(self):
        if self.low[0] > self.high[0] or self.low[1] > self.high[1]:
            raise ValueError(f"low={self.low} is above high={self.high} at the beginning or at the end")
        return self


presets = {
    "prolificdreamer": {},
    "magic3d": {"begin": 0.5, "until": 0.5},
    "mvdream": {"low": (1.0, 0.0), "begin": 0.0, "until": 0.8},
}


def timestep(progress, draw, noise, params):
    """t ~ U{low, …, high} of this step."""
    passed, span = progress - params.begin, params.until - params.begin
    share = min(max(passed / span, 0.0), 1.0) if span > 0 else float(passed > 0)
    low, high = (
        round(noise.t_min + (noise.t_max - noise.t_min) * (ends[0] + (ends[1] - ends[0]) * share))
        for ends in (params.low, params.high)
    )
    return low + int(draw * (max(high, low) - low + 1))
