"""Uniform SDS: the timestep is drawn anew at every step, t ~ U{t_min, …, t_max} (DreamFusion)."""

from pydantic import Field

from harness.distill.method import Method, MethodParams, NoiseSchedule


class Params(MethodParams):
    """`t`: one fixed timestep for the whole run instead (the control of DreamTime, fig. 14)."""

    t: int | None = Field(default=None, ge=0)


class UniformSDS(Method):
    """Score distillation sampling as published: but for the control, every default of `Method`."""

    Params = Params

    def __init__(self, params: Params, noise: NoiseSchedule, weighting: str = "one"):
        super().__init__(params, noise, weighting)
        if params.t is not None and not noise.t_min <= params.t <= noise.t_max:
            raise ValueError(f"t={params.t} is outside the range {noise.t_min}…{noise.t_max}")

    def timesteps(self, step_R, total_R, draws_R):
        if self.params.t is None:
            return super().timesteps(step_R, total_R, draws_R)
        return step_R.new_full(step_R.shape, self.params.t)
