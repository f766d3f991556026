"""What a scene is to whoever optimises, shows, measures or exports it: the generator g(θ) of R runs.

A kind of scene is one file or folder (`harness.scene.kind`) with one subclass of `Scene`; one that is seen by
volume rendering is a `harness.scene.volume.VolumeScene` and says no more than density and latent at points.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from harness import rng
from harness.config import Strict
from harness.scene.cameras import Cameras, rays

if TYPE_CHECKING:
    from harness.config import SceneConfig

Params = dict[str, Tensor]
Draws = Callable[[tuple[int, ...]], Tensor]  # shape → uniform draws in [0, 1), [R, *shape]

NORMAL_STEP = 0.02  # of the bound: half width of the differences that normals are taken from


class SceneSettings(Strict):
    """Base of a kind's own settings: frozen, and an unknown key is an error."""


@dataclass(frozen=True)
class View:
    """Latents x_RCHW that R cameras see, and what else there is to know of each pixel.

    depth_RHW is the sum of weight times distance, in world units: divide by opacity for the mean of what was
    hit. `penalties_R` are weighted regularisers [R] whose sum joins the loss; of the maps `logged_R` [R, …],
    and of opacity, the means are logged.
    """

    x_RCHW: Tensor
    opacity_RHW: Tensor | None = None
    depth_RHW: Tensor | None = None
    penalties_R: Mapping[str, Tensor] = field(default_factory=dict)
    logged_R: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def maps_R(self) -> dict[str, Tensor]:
        """Opacity, depth and what else is logged, by name; what there is of them."""
        known = {"opacity": self.opacity_RHW, "depth": self.depth_RHW, **self.logged_R}
        return {name: map_R for name, map_R in known.items() if map_R is not None}


@dataclass(frozen=True)
class Surface:
    """What one camera sees of one scene as a surface, P = side² pixels.

    depth_P, in world units, is the mean of what a ray hit, and points_P3 are there; unit normals_P3 where
    they were asked for. Where opacity_P is near zero the others mean nothing.
    """

    opacity_P: Tensor
    depth_P: Tensor
    points_P3: Tensor
    normals_P3: Tensor | None = None


class Scene(ABC):
    """R scenes of one kind and shape; their numbers are tensors [R, …] by name that the caller owns.

    Whatever is computed for a run may depend on that run alone, down to its bits on a CPU (see `by_run`).
    `channels`: C of the latents (of a prior in pixel space, colours). `encoder`: one that
    `harness.scene.encoders.choose_encoder` returned, for kinds with a hash grid or a volume to render.
    """

    Settings: ClassVar[type[SceneSettings]] = SceneSettings
    reads: ClassVar[tuple[str, ...]] = ()  # what the kind takes from SceneConfig, beside its own settings
    has_sides: ClassVar[bool] = True  # cameras see it from all round; one without sides has one view
    # What `query` tells of a point, where it tells anything: a density, whose level surface at a threshold is
    # the mesh, or a signed distance (negative inside), whose zero level is.
    quantity: ClassVar[Literal["density", "distance"] | None] = None

    def __init__(self, cfg: SceneConfig, channels: int, encoder: str = "torch"):
        self.cfg, self.channels, self.encoder = cfg, channels, encoder
        self.own: Any = self.Settings.model_validate(cfg.own)

    # ---- optimised

    @abstractmethod
    def init(self, keys: Sequence[rng.Key], background_RC: Tensor) -> Params:
        """Fresh parameters, float32 on the CPU, a run's from its key alone.

        They are all that a finished run keeps: a number that is needed to show it, and that no gradient
        reaches, is a parameter too (Adam leaves it as it is), such as which of N primitives are alive.
        background_RC: the latent that a learned background starts from.
        """

    def learning_rates(self) -> Mapping[str, float]:
        """Factors of config.optim.lr by parameter; 1 for those that are not named."""
        return {}

    def state(self, runs: int) -> Params:
        """What training keeps of fresh runs beside their parameters, [R, …]; it travels with checkpoints."""
        return {}

    def before_step(  # noqa: B027 - most kinds have nothing to do
        self, params: Params, state: Params, step_R: Tensor, total_R: Tensor, draws: Draws
    ) -> None:
        """Bring the state up to date, in place, before step step_R of total_R (int64 on the CPU, from 1)."""

    def after_step(  # noqa: B027
        self,
        params: Params,
        state: Params,
        grads: Params,
        moments: Sequence[Params],
        step_R: Tensor,
        total_R: Tensor,
        draws: Draws,
    ) -> None:
        """After Adam's update: change parameters, state and Adam's two moments in place, as densifying and
        pruning do; shapes stay. `grads` are this step's gradients, by parameter."""

    def learned_background(self, background_RC: Tensor) -> Params:
        """A run's own background among its parameters, where `scene.background` is "learned"."""
        if self.cfg.background != "learned":
            return {}
        return {"background": background_RC.detach().float().clone(memory_format=torch.contiguous_format)}

    # ---- seen

    @abstractmethod
    def view(
        self,
        params: Params,
        cameras: Cameras,
        background_RC: Tensor,
        draws: Draws | None = None,
        state: Params | None = None,
        side: int | None = None,
    ) -> View:
        """What run r shows camera r, side × side pixels (the scene's resolution), differentiable in the
        parameters for one backward pass.

        A training view has `draws`, and may have the state; penalties are computed for it alone. Without
        `draws` nothing is random, and without `state` nothing is left out.
        """

    def backdrop(self, params: Params, background_RC: Tensor, draws: Draws | None) -> Tensor:
        """What is behind the scene, [R, C]: the learned background, a flat one of another latent for each
        training view, or the flat one given, as `scene.background` says."""
        given_RC = params.get("background", background_RC.to(next(iter(params.values())).device))
        if self.cfg.background != "random" or draws is None:
            return given_RC
        return given_RC + self.cfg.background_spread * (2 * draws((self.channels,)) - 1)

    @torch.no_grad()
    def surface(self, params: Params, camera: Cameras, side: int, normals: bool = False) -> Surface:
        """The surface that one camera sees of one scene, side × side pixels, from its view's depth."""
        device = next(iter(params.values())).device
        view = self.view(params, camera, torch.zeros(1, self.channels, device=device), side=side)
        assert view.opacity_RHW is not None and view.depth_RHW is not None
        opacity_P = view.opacity_RHW[0].flatten()
        depth_P = view.depth_RHW[0].flatten() / opacity_P.clamp(min=1e-6)
        origins_1P3, directions_1P3 = rays(camera, side, side, device)
        points_P3 = origins_1P3[0] + depth_P[:, None] * directions_1P3[0]
        return Surface(
            opacity_P, depth_P, points_P3, self.normals(params, points_P3[None])[0] if normals else None
        )

    # ---- asked at points

    def query(self, params: Params, x_RN3: Tensor) -> tuple[Tensor, Tensor]:
        """Density or signed distance [R, N], as `quantity` says, and latent [R, N, C] at points in world
        units. Nothing is outside the cube |x|, |y|, |z| ≤ bound: a density is 0 there."""
        raise NotImplementedError(f"{type(self).__name__} says of no point what is there")

    def solidity(self, params: Params, x_RN3: Tensor) -> Tensor:
        """`query`'s density, or its signed distance turned round, [R, N]: what rises towards the inside."""
        value_RN, _ = self.query(params, x_RN3)
        return -value_RN if self.quantity == "distance" else value_RN

    def slope(self, params: Params, x_RN3: Tensor, step: float) -> Tensor:
        """Gradient [R, N, 3] of `solidity` from four differences of half width `step`, differentiable in the
        parameters through first derivatives only, as the fused encoders need."""
        signs_43 = torch.tensor([[1.0, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], device=x_RN3.device)
        gradient_RN3 = torch.zeros_like(x_RN3)
        for sign_3 in signs_43:
            value_RN = self.solidity(params, x_RN3 + step * sign_3)
            gradient_RN3 = gradient_RN3 + value_RN[..., None] * (sign_3 / (4 * step))
        return gradient_RN3

    def normals(self, params: Params, x_RN3: Tensor, step: float = 0.0) -> Tensor:
        """Unit normals [R, N, 3], against the `slope` of half width `step` (NORMAL_STEP · bound)."""
        gradient_RN3 = self.slope(params, x_RN3, step or NORMAL_STEP * self.bound)
        x, y, z = gradient_RN3.unbind(-1)
        return -gradient_RN3 / (x * x + y * y + z * z + 1e-12).sqrt()[..., None]

    @property
    def bound(self) -> float:
        """World units: the scene lives in the ball of this radius, and in the cube round it."""
        return self.cfg.bound

    @property
    def finest_cells(self) -> int:
        """How many of its smallest details lie along an edge of the cube; meshes have two cells for each."""
        return 64

    @property
    def depth_step(self) -> float:
        """World units that a view's depth may err by."""
        return 2 * self.bound / self.cfg.samples


def by_run(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """function(*tensors), on the CPU one run at a time: torch's kernels round by the size of the whole pack.

    tensors: [R, ...] each, and so are the results.
    """
    R = tensors[0].shape[0]
    if R == 1 or tensors[0].device.type != "cpu":
        return function(*tensors)
    # A clone has the alignment of a pack of one.
    runs = [function(*(tensor[r : r + 1].clone() for tensor in tensors)) for r in range(R)]
    return tuple(torch.cat(parts) for parts in zip(*runs, strict=True))


def mean_by_run(values: Tensor) -> Tensor:
    """Mean over all but the run dimension, [R], one run at a time: a reduction over a whole pack may sum in
    another order."""
    return torch.stack([run.mean() for run in values.unbind(0)])
