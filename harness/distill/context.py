"""What a method may look at in a step, and ask of the prior; computed when it is asked for, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import overload

import torch
from torch import Tensor

from harness import rng
from harness.config import nearest
from harness.device import upload
from harness.distill import contract
from harness.distill.contract import MethodError
from harness.guidance.prior import Guidance
from harness.guidance.views import perp_neg, view_prompt
from harness.scene.cameras import Cameras
from harness.scene.contract import View

# Names of a row of metrics.jsonl that are taken.
LOGGED = ("step", "time", "t", "nfe", "grad_norm", "residual")
Texts = str | Sequence[str]


class GradientContext:
    """One step of a pack, as `Method.gradient` sees it: R runs, all tensors on one device.

    The method owns x_t: it asks for the usual one, or makes its own. Nothing costs before it is asked for:
    whoever touches neither `eps_*` nor `predict` makes no call of the denoiser. What is computed for a run
    may depend on that run alone: no mixing over R. Tensors are copies, embeddings float32 [R,L,D], images
    and latents float32 [R,C,H,W], integers int64 [R].

    t may be an int, or int64 [R]; −1 stands for the clean latent. Noise levels are those of the prior as a
    noise schedule, x_t = √ᾱ_t·x + √(1−ᾱ_t)·ε, for flows, too (docs/priors.md).
    """

    def __init__(
        self,
        guidance: Guidance,
        keys: Sequence[rng.Key],
        step_R: Tensor,
        total_R: Tensor,
        t_R: Tensor,
        view: View,
        cameras: Cameras,
        views: Sequence[str],
    ):
        """Counts and cameras are on the CPU, t and the view, with its graph, on the prior's device."""
        self._guidance, self._view, self._cameras = guidance, view, cameras
        self._steps, self._counts = step_R.tolist(), (step_R, total_R)
        self.keys = tuple(keys)
        self.views = tuple(views)  # the views' names: front, side, back or overhead
        self.t_R = t_R.clone()
        self.nfe_R = torch.zeros(len(keys), dtype=torch.int64)  # the step's evaluations so far, on the CPU
        self.losses_R: list[Tensor] = []  # see add_loss
        self.logged_R: dict[str, Tensor] = {}  # see log

    # ---- the run and where it stands

    @property
    def device(self) -> torch.device:
        """Where all tensors are."""
        return self._guidance.device

    @property
    def prompts(self) -> tuple[str, ...]:
        """The runs' prompts, without the words of a view."""
        return tuple(key.prompt for key in self.keys)

    @cached_property
    def view_prompts(self) -> tuple[str, ...]:
        """The runs' prompts with the words of the views that their cameras have."""
        return tuple(self._of_views(self.views))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The runs' seeds alone; draws come from `normal` and `uniform`."""
        return tuple(key.seed for key in self.keys)

    @cached_property
    def step_R(self) -> Tensor:
        """i = 1…N."""
        return upload(self._counts[0].clone(), self.device)

    @cached_property
    def total_R(self) -> Tensor:
        """N."""
        return upload(self._counts[1].clone(), self.device)

    @cached_property
    def progress_R(self) -> Tensor:
        """i/N, float32."""
        return upload((self._counts[0] / self._counts[1]).float(), self.device)

    # ---- what the scene shows

    @cached_property
    def x_RCHW(self) -> Tensor:
        """The rendered latent, without its graph."""
        return self._view.x_RCHW.detach().clone()

    @cached_property
    def render_RCHW(self) -> Tensor:
        """The rendered latent with its graph, for losses (`add_loss`)."""
        return self._view.x_RCHW.clone()

    @property
    def maps(self) -> frozenset[str]:
        """The names of the view's maps."""
        return frozenset(self._view.maps_R)

    def map(self, name: str) -> Tensor:
        """A map of the view without its graph, such as "opacity" [R,H,W]; MethodError where there is none."""
        maps = self._view.maps_R
        if name not in maps:
            raise MethodError(f"this scene has no map '{name}'{nearest(name, maps)}")
        return maps[name].detach().clone()

    @cached_property
    def cameras(self) -> Cameras:
        """Azimuth, elevation and field of view in degrees, distance in world units; float32."""
        return self._cameras.map(lambda values_R: upload(values_R.float(), self.device))

    @cached_property
    def c2w_R44(self) -> Tensor:
        """Camera to world; see `Cameras.c2w`."""
        return upload(self._cameras.c2w().float(), self.device)

    # ---- conditions

    @cached_property
    def cond_RLD(self) -> Tensor:
        """The prompts with the words of their views."""
        return self.embed(self.view_prompts)

    @cached_property
    def plain_RLD(self) -> Tensor:
        """The prompts as they are, without the words of a view."""
        return self.embed(self.prompts)

    @cached_property
    def empty_RLD(self) -> Tensor:
        """No prompt."""
        return self.embed("")

    @cached_property
    def uncond_RLD(self) -> Tensor:
        """What guidance leads away from: config.guidance.negative, which is no prompt by default."""
        return self.embed(self._guidance.cfg.negative)

    def embed(self, texts: Texts) -> Tensor:
        """Any texts, one for all runs (a negative prompt, for instance) or one for each."""
        each = [texts] * len(self.keys) if isinstance(texts, str) else list(texts)
        return self._guidance.embed(each)

    def suffixed(self, text: str) -> Tensor:
        """The prompts with the words of their views, and this text behind."""
        return self.embed([prompt + text for prompt in self.view_prompts])

    def of_view(self, view: str) -> Tensor:
        """The prompts with the words of this view: front, side, back or overhead."""
        return self.embed(self._of_views([view] * len(self.keys)))

    def _of_views(self, views: Sequence[str | None]) -> list[str]:
        """Each run's prompt with the words of a view, or no prompt."""
        template, each = self._guidance.cfg.view_prompt, zip(self.prompts, views, strict=True)
        return ["" if view is None else view_prompt(template, prompt, view) for prompt, view in each]

    # ---- the denoiser

    @cached_property
    def noise_RCHW(self) -> Tensor:
        """ε, the step's noise; the same for every method."""
        draws = rng.normal(self.keys, self._steps, "noise", self._view.x_RCHW.shape[1:])
        return upload(draws, self.device)

    @cached_property
    def x_t_RCHW(self) -> Tensor:
        """x noised to the step's t by the step's ε."""
        return self.add_noise(self.x_RCHW, self.noise_RCHW, self.t_R)

    @cached_property
    def _eps(self) -> tuple[Tensor, ...]:
        return self._branches(self.x_t_RCHW, self.t_R)

    @property
    def eps_uncond_RCHW(self) -> Tensor:
        """ε(x_t, ∅, t), or of the negative prompt in ∅'s place; made together with `eps_cond_RCHW`, in one
        call of the denoiser."""
        return self._eps[0]

    @property
    def eps_cond_RCHW(self) -> Tensor:
        """ε(x_t, y, t)."""
        return self._eps[1]

    @cached_property
    def eps_RCHW(self) -> Tensor:
        """ε̂(x_t, y, t), guided as `guided` says."""
        return self._guide(self._eps)

    @property
    def cfg_scale(self) -> float:
        """s, config.guidance.cfg_scale."""
        return self._guidance.cfg.cfg_scale

    def guided(
        self,
        x_t_RCHW: Tensor,
        t: Tensor | int,
        scale: float | Tensor | None = None,
        *,
        only_R: Tensor | None = None,
    ) -> Tensor:
        """ε̂(x_t, y, t) at any noise level, guided with all that config.guidance asks for: classifier-free
        guidance, the negative prompt, Perp-Neg, the rescale. Two evaluations, with Perp-Neg four.

        `scale` and `only_R` as in `cfg` and `predict`. Perp-Neg: ε_∅ + s·(ε⁺ + Σ w_i·ε_i^⊥), ε⁺ = ε_y − ε_∅
        and ε_i^⊥ the part of ε_i − ε_∅ that is perpendicular to ε⁺ (Armandpour et al. 2023, arXiv
        2304.04968); y is a mixture of two views' embeddings, see `harness.guidance.views.perp_neg`.
        """
        return self._guide(self._branches(x_t_RCHW, t, only_R), scale)

    def _branches(
        self, x_t_RCHW: Tensor, t: Tensor | int, only_R: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """ε of no prompt and of the prompt, and of Perp-Neg's two negative views where it is on."""
        if not self._guidance.cfg.perp_neg:
            return self.predict(x_t_RCHW, t, self.uncond_RLD, self.cond_RLD, only_R=only_R)
        mixed_RLD, negatives_RLD, _ = self._perp_neg
        return self.predict(x_t_RCHW, t, self.uncond_RLD, mixed_RLD, *negatives_RLD, only_R=only_R)

    @cached_property
    def _perp_neg(self) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The positive condition, and the negative ones with their weights [R,1,1,1]."""
        azimuths = self._cameras.azimuth_R.tolist()
        plans = [perp_neg(view, azimuth) for view, azimuth in zip(self.views, azimuths, strict=True)]

        def conditions(pairs: Sequence[Sequence[tuple[str | None, float]]]) -> list[tuple[Tensor, Tensor]]:
            views, numbers = zip(*[zip(*pair, strict=True) for pair in pairs], strict=True)
            texts = [self._of_views(each) for each in zip(*views, strict=True)]
            columns = [self._column(each) for each in zip(*numbers, strict=True)]
            return [(self.embed(each), column) for each, column in zip(texts, columns, strict=True)]

        (a_RLD, a), (b_RLD, b) = conditions([plan.positives for plan in plans])
        negatives = conditions([plan.negatives for plan in plans])
        strength = self._guidance.cfg.perp_neg
        return (
            a[..., 0] * a_RLD + b[..., 0] * b_RLD,
            [cond_RLD for cond_RLD, _ in negatives],
            [strength * weight for _, weight in negatives],
        )

    def _column(self, values: Sequence[float]) -> Tensor:
        """A number of each run, [R,1,1,1]."""
        return upload(torch.tensor(values, dtype=torch.float32)[:, None, None, None], self.device)

    def _guide(self, eps: tuple[Tensor, ...], scale: float | Tensor | None = None) -> Tensor:
        uncond_RCHW, cond_RCHW, *negatives = eps
        if negatives:
            along_RCHW = cond_RCHW - uncond_RCHW
            for eps_RCHW, weight in zip(negatives, self._perp_neg[2], strict=True):
                cond_RCHW = cond_RCHW + weight * perpendicular(eps_RCHW - uncond_RCHW, along_RCHW)
        return self.cfg(uncond_RCHW, cond_RCHW, scale)

    @overload
    def predict(
        self,
        x_t_RCHW: Tensor,
        t: Tensor | int,
        cond_RLD: Tensor,
        /,
        *,
        only_R: Tensor | None = None,
        updates: Mapping[str, Tensor] | None = None,
        grad: bool = False,
    ) -> Tensor: ...
    @overload
    def predict(
        self,
        x_t_RCHW: Tensor,
        t: Tensor | int,
        cond_RLD: Tensor,
        other_RLD: Tensor,
        /,
        *others_RLD: Tensor,
        only_R: Tensor | None = None,
        updates: Mapping[str, Tensor] | None = None,
        grad: bool = False,
    ) -> tuple[Tensor, ...]: ...
    def predict(
        self,
        x_t_RCHW: Tensor,
        t: Tensor | int,
        /,
        *conds_RLD: Tensor,
        only_R: Tensor | None = None,
        updates: Mapping[str, Tensor] | None = None,
        grad: bool = False,
    ) -> Tensor | tuple[Tensor, ...]:
        """ε̂(x_t, y, t) for one condition, or a tuple of them for several, in one call of the denoiser.

        Every sample is counted as an evaluation of its run. `only_R`, bool [R]: the runs that are evaluated;
        the others get zeros, and nothing is counted for them. `updates`, [R, …] by name: each run's own of
        the denoiser (`harness.guidance.lora`). `grad`: the result is differentiable in x_t, the conditions
        and the updates; otherwise it has no graph. Raises MethodError for a wrong shape or dtype.
        """
        runs = len(self.keys)
        latent = tuple(self._view.x_RCHW.shape)
        contract.expect("predict's x_t", x_t_RCHW, torch.float32, latent, self.device)
        for cond_RLD in conds_RLD:
            shape = (runs, *self.empty_RLD.shape[1:])
            contract.expect("predict's condition", cond_RLD, torch.float32, shape, self.device)
        t_R = self._timestep(t)
        updates = updates or {}
        for name, value in updates.items():
            shape = (runs, *value.shape[1:])
            contract.expect(f"predict's {name}", value, torch.float32, shape, self.device)
        if only_R is None:
            found = self._guidance.predict(x_t_RCHW, t_R, *conds_RLD, updates=updates, grad=grad)
            self.nfe_R += len(conds_RLD)
        else:
            contract.expect("predict's only_R", only_R, torch.bool, (runs,), only_R.device)
            rows = only_R.cpu().nonzero()[:, 0]
            found = tuple(torch.zeros_like(x_t_RCHW) for _ in conds_RLD)
            self.nfe_R[rows] += len(conds_RLD)
            if len(rows):
                at = upload(rows, self.device)
                some = self._guidance.predict(
                    x_t_RCHW[at],
                    t_R[at],
                    *(cond[at] for cond in conds_RLD),
                    updates={name: value[at] for name, value in updates.items()},
                    grad=grad,
                )
                found = tuple(each.index_copy(0, at, eps) for each, eps in zip(found, some, strict=True))
        return found[0] if len(found) == 1 else found

    def cfg(
        self, eps_uncond_RCHW: Tensor, eps_cond_RCHW: Tensor, scale: float | Tensor | None = None
    ) -> Tensor:
        """ε_∅ + s·(ε_y − ε_∅), with config.guidance.cfg_scale where no scale is given.

        With config.guidance.rescale, φ: φ·ε̂·std(ε_y)/std(ε̂) + (1−φ)·ε̂, the deviations over C, H and W
        (Lin et al. 2024, arXiv 2305.08891, §3.4).
        """
        eps_RCHW = self._guidance.cfg_noise(eps_uncond_RCHW, eps_cond_RCHW, scale)
        share = self._guidance.cfg.rescale
        if not share:
            return eps_RCHW
        ratio = per_run(torch.std, eps_cond_RCHW) / per_run(torch.std, eps_RCHW)
        return (share * ratio + (1 - share)) * eps_RCHW

    def decode(self, x_RCHW: Tensor) -> Tensor:
        """Images [R,3,H,W] in [0, 1] of latents; differentiable where these have a graph."""
        return self._guidance.decode(x_RCHW)

    # ---- noise levels

    def levels(self, t: Tensor | int) -> tuple[Tensor, Tensor]:
        """(√ᾱ_t, √(1−ᾱ_t)), float32 [R,1,1,1] each; (1, 0) of the clean latent."""
        signal_R, noise_R = self._guidance.levels(self._timestep(t))
        return signal_R[:, None, None, None], noise_R[:, None, None, None]

    def add_noise(self, x_RCHW: Tensor, noise_RCHW: Tensor, t: Tensor | int) -> Tensor:
        """x_t = √ᾱ_t·x + √(1−ᾱ_t)·ε."""
        signal, noise = self.levels(t)
        return signal * x_RCHW + noise * noise_RCHW

    def clean(self, x_t_RCHW: Tensor, eps_RCHW: Tensor, t: Tensor | int) -> Tensor:
        """x̂_0 = (x_t − √(1−ᾱ_t)·ε̂) / √ᾱ_t."""
        signal, noise = self.levels(t)
        return (x_t_RCHW - noise * eps_RCHW) / signal

    def ddim(
        self,
        x_t_RCHW: Tensor,
        eps_RCHW: Tensor,
        t_from: Tensor | int,
        t_to: Tensor | int,
        eta: float = 0.0,
        noise_RCHW: Tensor | None = None,
    ) -> Tensor:
        """A hop of DDIM from one noise level to another, up or down (Song et al. 2021, eq. 12).

        η > 0 adds `noise_RCHW` by that share of the ancestral sampler's deviation, downwards only. For a flow
        the hop with η = 0 is Euler's.
        """
        clean_RCHW = self.clean(x_t_RCHW, eps_RCHW, t_from)
        signal, noise = self.levels(t_to)
        if eta == 0.0:
            return signal * clean_RCHW + noise * eps_RCHW
        if noise_RCHW is None:
            raise MethodError("ddim with eta > 0 takes noise: pass noise_RCHW")
        signal_from, noise_from = self.levels(t_from)
        spread = eta * noise / noise_from * (1 - (signal_from / signal) ** 2).clamp(min=0).sqrt()
        along = (noise**2 - spread**2).clamp(min=0).sqrt()
        return signal * clean_RCHW + along * eps_RCHW + spread * noise_RCHW

    def flow_sigma(self, t: Tensor | int) -> Tensor:
        """σ of the same signal-to-noise ratio in a rectified flow, x_σ = (1−σ)·x + σ·ε; [R,1,1,1]."""
        signal, noise = self.levels(t)
        return noise / (signal + noise)

    def velocity(self, x_t_RCHW: Tensor, eps_RCHW: Tensor, t: Tensor | int) -> Tensor:
        """v̂ = ε̂ − x̂_0, a rectified flow's velocity towards noise."""
        return eps_RCHW - self.clean(x_t_RCHW, eps_RCHW, t)

    def noise_of_velocity(self, x_t_RCHW: Tensor, v_RCHW: Tensor, t: Tensor | int) -> Tensor:
        """ε̂ = x_σ + (1−σ)·v̂, the inverse of `velocity`."""
        signal, noise = self.levels(t)
        return (x_t_RCHW + signal * v_RCHW) / (signal + noise)

    def _timestep(self, t: Tensor | int) -> Tensor:
        """t on the device, int64 [R]."""
        t_R = torch.full((len(self.keys),), t, dtype=torch.int64) if isinstance(t, int) else t
        contract.expect("t", t_R, torch.int64, (len(self.keys),), t_R.device)
        last = self._guidance.num_train_timesteps - 1
        # To look at a GPU's numbers is to wait for it.
        if t_R.device.type == "cpu" and not bool(((t_R >= -1) & (t_R <= last)).all()):
            raise MethodError(f"t = {t_R.tolist()} is outside −1…{last}")
        return t_R if t_R.device.type == self.device.type else upload(t_R, self.device)

    # ---- randomness

    def normal(self, name: str, shape: Sequence[int] | None = None, fixed: bool = False) -> Tensor:
        """Standard normal draws [R, *shape], by default of a latent's shape: each run's own of this step and
        name; `fixed`: the same at every step of the run."""
        return self._draw(rng.normal, name, self._view.x_RCHW.shape[1:] if shape is None else shape, fixed)

    def uniform(self, name: str, shape: Sequence[int] = (), fixed: bool = False) -> Tensor:
        """Draws in [0, 1), [R, *shape]; see `normal`."""
        return self._draw(rng.uniform, name, shape, fixed)

    def _draw(self, draw: Callable[..., Tensor], name: str, shape: Sequence[int], fixed: bool) -> Tensor:
        steps = [0] * len(self.keys) if fixed else self._steps
        return upload(draw(self.keys, steps, "method", shape, part=name), self.device)

    def each(self, call: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """`call` on tensors [R, …], run by run on a CPU, where the last bits of a matrix product or a sum
        depend on how many runs it is over: for a network of the method's own, or a norm. Differentiable."""
        if self.device.type != "cpu":
            return call(*tensors)
        rows = zip(*(value.split(1) for value in tensors), strict=True)
        return torch.cat([call(*row) for row in rows])

    # ---- what is handed in

    def add_loss(self, value_R: Tensor) -> None:
        """A loss of each run, float32 [R], whose gradient through `render_RCHW` is added to the step's."""
        runs = (len(self.keys),)
        contract.expect("add_loss's value", value_R, torch.float32, runs, self.device)
        if not value_R.requires_grad:
            raise MethodError("add_loss was given a value without a graph: begin with ctx.render_RCHW")
        self.losses_R.append(value_R)

    def log(self, name: str, value_R: Tensor) -> None:
        """A number of each run, [R], written to metrics.jsonl under this name when the step is logged."""
        taken = {*LOGGED, *self._view.maps_R, *(f"loss_{name}" for name in self._view.penalties_R)}
        if name in taken:
            raise MethodError(f"log: the name {name} is taken; choose another")
        contract.expect(f"log's {name}", value_R, value_R.dtype, (len(self.keys),), self.device)
        self.logged_R[name] = value_R.detach().clone()


def per_run(call: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """`call` of each run's tensors, numbers as [R,1,1,1]: how torch sums a pack depends on its size."""
    return torch.stack([call(*run) for run in zip(*tensors, strict=True)])[:, None, None, None]


def perpendicular(x_RCHW: Tensor, y_RCHW: Tensor) -> Tensor:
    """x − (x·y / y·y)·y, the part of x that is perpendicular to y, run by run; x where y is 0."""

    def share(x_CHW: Tensor, y_CHW: Tensor) -> Tensor:
        return (x_CHW * y_CHW).sum() / y_CHW.square().sum().clamp(min=1e-6)

    return x_RCHW - per_run(share, x_RCHW, y_RCHW) * y_RCHW
