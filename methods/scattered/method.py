"""Scattered: the timesteps of a falling schedule, each once, in an order that jumps over the whole range."""

from typing import Literal

from pydantic import Field

from harness.distill.method import MethodParams
from harness.distill.schedules import Density


class Params(MethodParams):
    """`of`: whose timesteps, linear_decay's or tp_sds:iclr's, with its m and s."""

    of: Literal["linear_decay", "iclr"] = "linear_decay"
    m: float = Field(default=500.0, ge=0)
    s: float = Field(default=125.0, gt=0)
    order: Literal["scattered"] = "scattered"


presets = {"iclr": {"of": "iclr"}}


def density(t_T, noise, params):
    """W = 1, or W_d·W_p."""
    falling = params.of == "iclr"
    shape = Density("gaussian" if falling else "constant", snr_weight=falling, m=params.m, s=params.s)
    return shape.over(noise.alphas_cumprod_T, noise.t_min, noise.t_max)
