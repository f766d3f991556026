"""One step of a pack: the algorithm of score distillation, for R runs at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from harness import rng
from harness.config import Config, OptimConfig
from harness.device import upload
from harness.distill import contract
from harness.distill.context import GradientContext
from harness.distill.contract import MethodError
from harness.distill.method import Method
from harness.distill.optim import Adam
from harness.guidance.prior import Guidance
from harness.guidance.views import view_name
from harness.scene.cameras import Cameras, sample
from harness.scene.contract import Scene, View


@dataclass
class Pack:
    """R runs of one method and one config in lockstep; any prompts, seeds and steps already done.

    `step_R` counts the steps done, `total_R` is each run's N (int64 on the CPU). Parameters have a leading R.
    `schedules` choose each run's timesteps: the method itself, or the same one with other settings of its
    schedule.
    """

    config: Config
    method: Method
    guidance: Guidance
    scene: Scene
    background_C: Tensor  # latent code of the background colour
    keys: list[rng.Key]  # each run's prompt and seed
    step_R: Tensor
    total_R: Tensor
    params: dict[str, Tensor]
    adam: Adam
    scene_state: dict[str, Tensor] = field(default_factory=dict)  # see Scene.state
    diverged_R: Tensor | None = None  # see StepReport
    state_layout: contract.StateLayout = field(default_factory=dict)  # of the method's state
    schedules: list[Method] = field(default_factory=list)  # by default the method, for every run
    nfe_R: Tensor = field(init=False)  # denoiser evaluations of each run so far, int64 on the CPU

    def __post_init__(self) -> None:
        self.schedules = self.schedules or [self.method] * len(self.keys)
        contract.guard_weight(self.method)
        self.nfe_R = torch.zeros_like(self.step_R)

    def method_state(self) -> dict[str, Tensor]:
        """What the method has learned, each tensor [R, …]; MethodError where it is not what was announced."""
        return contract.state(self.method.state(), self.state_layout, len(self.keys))

    def keep(self, runs: Sequence[int]) -> None:
        """Drop every run whose index is not in `runs`; the others' numbers are copied, not touched."""
        index = torch.tensor(runs, dtype=torch.int64)
        learned = take(self.method_state(), index)
        self.keys = [self.keys[r] for r in runs]
        self.schedules = [self.schedules[r] for r in runs]
        self.step_R, self.total_R = self.step_R[index], self.total_R[index]
        self.nfe_R = self.nfe_R[index]
        if self.diverged_R is not None:
            self.diverged_R = self.diverged_R[index.to(self.diverged_R.device)]
        for tensors in (self.params, self.scene_state, self.adam.first, self.adam.second):
            tensors.update(take(tensors, index))
        self.method.load_state(learned)


@dataclass(frozen=True)
class StepReport:
    """What a step did, per run; it stays on the device until it is looked at.

    `diverged_R`: the step at which a run first had a value that is not finite, 0 where it had none. `nfe_R`:
    denoiser evaluations of the run so far. `grad_norm_R`: norm of θ's gradient; `residual_R`: root mean
    square of the method's at x. `logged_R`: what the method logged.
    """

    t_R: Tensor
    nfe_R: Tensor
    diverged_R: Tensor
    grad_norm_R: Tensor
    residual_R: Tensor
    view: View
    logged_R: Mapping[str, Tensor] = field(default_factory=dict)

    def scalars(self, r: int) -> dict[str, float | int]:
        """The logged values of run r."""
        maps_R = {name: map_R for name, map_R in self.view.maps_R.items() if name != "depth"}
        return {
            "t": int(self.t_R[r]),
            "nfe": int(self.nfe_R[r]),
            "grad_norm": float(self.grad_norm_R[r]),
            "residual": float(self.residual_R[r]),
            **{name: float(map_R[r].detach().mean()) for name, map_R in maps_R.items()},
            **{f"loss_{name}": float(value_R[r].detach()) for name, value_R in self.view.penalties_R.items()},
            **{name: float(value_R[r]) for name, value_R in self.logged_R.items()},
        }


def take(tensors: Mapping[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    """Rows `index` of every tensor."""
    return {name: value[index.to(value.device)] for name, value in tensors.items()}


def step(pack: Pack) -> StepReport:
    """Advance every run of the pack by one step.

    Randomness is drawn per run from (prompt, seed, step, stream) on the CPU, so that neither the pack nor the
    method nor the device changes what a run sees. A run with a non-finite value is reported, and its
    neighbours do not notice. The method gets copies: what it writes into them, or keeps, changes nothing
    here. Raises MethodError where it returns what it must not.
    """
    config, guidance = pack.config, pack.guidance
    device, keys = guidance.device, pack.keys
    pack.step_R = pack.step_R + 1  # i = 1…N
    i = pack.step_R.tolist()

    # x = g(θ, c): a camera for each run, and its render
    cameras = sample(config.camera, rng.uniform(keys, i, "camera", (4,)))
    if not pack.scene.has_sides:
        cameras = from_the_front(cameras)
    pack.scene.before_step(
        pack.params,
        pack.scene_state,
        pack.step_R,
        pack.total_R,
        lambda shape: upload(rng.uniform(keys, i, "occupancy", shape), device),
    )
    params = {name: value.requires_grad_() for name, value in pack.params.items()}
    view = pack.scene.view(
        params,
        cameras,
        background(pack),
        lambda shape: upload(rng.uniform(keys, i, "render", shape), device),
        pack.scene_state,
    )
    x_RCHW = view.x_RCHW.detach()

    # t and the gradient at x are the method's; whatever it asks of the prior is computed for it
    draws_R = rng.uniform(keys, i, "timestep", ())
    t_R = upload(_timesteps(pack, draws_R), device)
    context = GradientContext(
        guidance, keys, pack.step_R, pack.total_R, t_R, view, cameras, camera_views(pack, cameras)
    )
    with contract.blamed():
        g_RCHW = pack.method.gradient(context)
    g_RCHW = contract.gradient(g_RCHW, x_RCHW)
    residual_R = per_run_norm([g_RCHW]) / g_RCHW[0].numel() ** 0.5
    g_RCHW = clipped(g_RCHW, config.optim)
    pack.nfe_R = pack.nfe_R + context.nfe_R

    # it is carried on to θ, together with the regularisers' and that of the method's own losses
    losses_R = [*view.penalties_R.values(), *context.losses_R]
    found = torch.autograd.grad(
        [view.x_RCHW, *losses_R],
        list(params.values()),
        [g_RCHW, *(torch.ones_like(value_R) for value_R in losses_R)],
        allow_unused=True,
    )
    grads = {  # a sum over a tensor goes by its memory, which for one run may be laid out otherwise
        name: torch.zeros_like(value) if grad is None else grad.contiguous()
        for (name, value), grad in zip(params.items(), found, strict=True)
    }

    # θ ← Adam(θ, g)
    pack.params = {name: value.detach() for name, value in params.items()}
    pack.adam.update(pack.params, grads, pack.step_R)
    pack.scene.after_step(
        pack.params,
        pack.scene_state,
        grads,
        (pack.adam.first, pack.adam.second),
        pack.step_R,
        pack.total_R,
        lambda shape: upload(rng.uniform(keys, i, "scene", shape), device),
    )

    grad_norm_R = per_run_norm(list(grads.values()))
    finite_R = torch.isfinite(grad_norm_R) & torch.isfinite(per_run_norm([x_RCHW, g_RCHW]))
    now_R = upload(pack.step_R, device) * ~finite_R
    before_R = now_R if pack.diverged_R is None else pack.diverged_R
    pack.diverged_R = torch.where(before_R > 0, before_R, now_R)
    return StepReport(t_R, pack.nfe_R, pack.diverged_R, grad_norm_R, residual_R, view, context.logged_R)


def _timesteps(pack: Pack, draws_R: Tensor) -> Tensor:
    """t of each run by its own schedule; MethodError names the runs of the schedule that is to blame."""
    t_R = torch.empty_like(pack.step_R)
    for schedule in dict.fromkeys(pack.schedules):
        runs = [r for r, each in enumerate(pack.schedules) if each is schedule]
        own = torch.tensor(runs)
        try:
            with contract.blamed():
                given = schedule.timesteps(pack.step_R[own], pack.total_R[own], draws_R[own])
            t_R[own] = contract.timesteps(given, pack.step_R[own], schedule.noise)
        except MethodError as error:
            blamed = range(len(runs)) if error.runs is None else error.runs
            raise MethodError(str(error), [runs[r] for r in blamed]) from error
    return t_R


def camera_views(pack: Pack, cameras: Cameras) -> list[str]:
    """The names of the views that the cameras have."""
    cfg = pack.config.camera
    return [
        view_name(azimuth, elevation, cfg.front_sector, cfg.overhead)
        for azimuth, elevation in zip(cameras.azimuth_R.tolist(), cameras.elevation_R.tolist(), strict=True)
    ]


def from_the_front(cameras: Cameras) -> Cameras:
    """The cameras, all of them in front: what has no sides is seen from there."""
    ahead_R = torch.zeros_like(cameras.azimuth_R)
    return replace(cameras, azimuth_R=ahead_R, elevation_R=ahead_R)


@torch.no_grad()
def clipped(g_RCHW: Tensor, cfg: OptimConfig) -> Tensor:
    """A gradient at x within the bounds of the config, run by run; itself where there are none.

    `clip_pixel`: a pixel's channels are scaled by one factor, so that the largest of them is the bound at
    most (PGC, Pan et al. 2024, arXiv 2310.12474). `clip_norm`: then the whole is, to that Euclidean norm.
    """
    if cfg.clip_pixel is not None:
        largest_R1HW = g_RCHW.abs().amax(dim=1, keepdim=True)
        g_RCHW = g_RCHW * (cfg.clip_pixel / largest_R1HW).clamp(max=1.0)
    if cfg.clip_norm is not None:
        scale_R = (cfg.clip_norm / per_run_norm([g_RCHW])).clamp(max=1.0)
        g_RCHW = g_RCHW * scale_R[:, None, None, None]
    return g_RCHW


def background(pack: Pack) -> Tensor:
    """The flat background of every run, [R, C]."""
    return pack.background_C.expand(len(pack.keys), -1)


@torch.no_grad()
def per_run_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm over all tensors, [R].

    Run by run and tensor by tensor: the order in which torch sums a larger tensor depends on its shape, so on
    R.
    """
    norms = torch._foreach_norm([run for tensor in tensors for run in tensor.detach().unbind(0)])
    squares_TR = torch.stack(norms).view(len(tensors), -1).square()
    total_R = squares_TR[0]
    for square_R in squares_TR[1:]:
        total_R = total_R + square_R
    return total_R.sqrt()


@torch.no_grad()
def evaluation_latents(pack: Pack, cameras: Cameras, runs: Sequence[int]) -> Tensor:
    """Latents of the evaluation cameras for some runs of the pack, [n, V, C, H, W]."""
    params = take(pack.params, torch.tensor(runs, dtype=torch.int64))
    background_RC = background(pack)[: len(runs)]
    views = [
        pack.scene.view(params, cameras[v : v + 1].expand(len(runs)), background_RC, None).x_RCHW
        for v in range(len(cameras))
    ]
    return torch.stack(views, dim=1)
