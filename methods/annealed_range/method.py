"""Annealed range: SDS with t drawn from a range that narrows or falls during the run."""

from pydantic import Field

from harness.distill.method import MethodParams

Ends = tuple[float, float]


class Params(MethodParams):
    """Bounds of t as shares of the way from t_min to t_max: `low` and `high` are at their first number until
    the share `begin` of the run, at their second from `until` on, and move in equal strides between."""

    low: Ends = (0.0, 0.0)
    high: Ends = (1.0, 0.5)
    begin: float = Field(default=0.2, ge=0, le=1)
    until: float = Field(default=0.2, ge=0, le=1)


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
