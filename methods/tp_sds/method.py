"""TP-SDS: time-prioritised SDS, t falls at the pace that the weight W(t) sets (DreamTime)."""

from typing import ClassVar, Literal

from pydantic import Field

from harness.distill.method import Method, MethodParams, NoiseSchedule
from harness.distill.schedules import Schedule, Weighting


class Params(MethodParams):
    """`prior` is W_p, `snr_weight` adds W_d; m, s: Gaussian prior; m1, m2, s1, s2: piecewise prior."""

    prior: Literal["piecewise", "gaussian", "constant"] = "piecewise"
    snr_weight: bool = False
    m: float = 500.0
    s: float = Field(default=125.0, gt=0)
    m1: float = 800.0
    m2: float = 500.0
    s1: float = Field(default=300.0, gt=0)
    s2: float = Field(default=100.0, gt=0)
    order: Literal["descending", "ascending", "random"] = "descending"


class TimePrioritisedSDS(Method):
    Params = Params
    presets: ClassVar = {
        "v1": {},
        "iclr": {"prior": "gaussian", "snr_weight": True},
        "prior_only": {"prior": "gaussian"},
        "snr_only": {"prior": "constant", "snr_weight": True},
        "reversed": {"order": "ascending"},
        "random": {"order": "random"},
    }

    def __init__(self, params: Params, noise: NoiseSchedule, weighting: str = "one"):
        super().__init__(params, noise, weighting)
        shape = Weighting(**params.model_dump(exclude={"order"}))
        weights_T = shape.over(noise.alphas_cumprod_T, noise.t_min, noise.t_max)
        self.schedule = Schedule(weights_T, noise.t_min, noise.t_max, params.order)

    def timesteps(self, step_R, total_R, draws_R):
        return step_R.new_tensor(self.schedule.timesteps(step_R, total_R, draws_R))
