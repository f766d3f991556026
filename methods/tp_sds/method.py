"""TP-SDS: time-prioritised SDS, t falls at the pace that the weight W(t) sets (DreamTime)."""

from typing import Literal

import numpy as np
from pydantic import Field

from harness.distill.method import MethodParams
from harness.distill.schedules import Density


class Params(MethodParams):
    """`prior` is W_p, `snr_weight` adds W_d; m, s: Gaussian prior; m1, m2, s1, s2: piecewise prior. W is cut
    to `floor` … `ceiling`; none: to the ends of t's range."""

    prior: Literal["piecewise", "gaussian", "constant"] = "piecewise"
    snr_weight: bool = False
    m: float = Field(default=500.0, ge=0)
    s: float = Field(default=125.0, gt=0)
    m1: float = Field(default=800.0, ge=0)
    m2: float = Field(default=500.0, ge=0)
    s1: float = Field(default=300.0, gt=0)
    s2: float = Field(default=100.0, gt=0)
    order: Literal["descending", "ascending", "random"] = "descending"
    floor: int | None = Field(default=None, ge=0)
    ceiling: int | None = Field(default=None, ge=0)


presets = {
    "v1": {},
    "iclr": {"prior": "gaussian", "snr_weight": True},
    "prior_only": {"prior": "gaussian"},
    "snr_only": {"prior": "constant", "snr_weight": True},
    "reversed": {"order": "ascending"},
    "random": {"order": "random"},
    "pgc": {"floor": 200, "ceiling": 799},
}


def density(t_T, noise, params):
    """W = W_d·W_p."""
    shape = Density(**params.model_dump(exclude={"order", "floor", "ceiling"}))
    weights_T = shape.over(noise.alphas_cumprod_T, noise.t_min, noise.t_max)
    low = noise.t_min if params.floor is None else params.floor
    high = noise.t_max if params.ceiling is None else params.ceiling
    return np.where((t_T >= low) & (t_T <= high), weights_T, 0.0)
