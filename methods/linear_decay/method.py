"""Linear decay: SDS with t falling in equal strides from t_max to t_min, or to a floor (truncated linear)."""

from typing import ClassVar, Literal

from pydantic import Field

from harness.distill.method import Method, MethodParams, NoiseSchedule
from harness.distill.schedules import Schedule, Weighting


class Params(MethodParams):
    """`floor`: t never falls below it (None: down to t_min). `order` "ascending" runs the list backwards."""

    floor: int | None = Field(default=None, ge=0)
    order: Literal["descending", "ascending"] = "descending"


class LinearDecay(Method):
    Params = Params
    presets: ClassVar = {"truncated": {"floor": 200}, "reversed": {"order": "ascending"}}

    def __init__(self, params: Params, noise: NoiseSchedule, weighting: str = "one"):
        super().__init__(params, noise, weighting)
        weights_T = Weighting("constant").over(noise.alphas_cumprod_T, noise.t_min, noise.t_max)
        self.schedule = Schedule(weights_T, noise.t_min, noise.t_max, params.order, params.floor)

    def timesteps(self, step_R, total_R, draws_R):
        return step_R.new_tensor(self.schedule.timesteps(step_R, total_R, draws_R))
