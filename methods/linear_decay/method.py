"""Linear decay: SDS with t falling in equal strides from t_max to t_min, or to a floor (truncated linear)."""

from typing import Literal

import numpy as np
from pydantic import Field

from harness.distill.method import MethodParams


class Params(MethodParams):
    """`floor`: t never falls below it (None: down to t_min). `order` "ascending" runs the list backwards."""

    floor: int | None = Field(default=None, ge=0)
    order: Literal["descending", "ascending"] = "descending"


presets = {"truncated": {"floor": 200}, "reversed": {"order": "ascending"}}


def density(t_T, noise, params):
    """W = 1: every timestep gets as many steps."""
    return np.ones_like(t_T)
