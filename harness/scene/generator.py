"""What is optimised: a generator g(θ) that shows R runs' parameters to R cameras as latents.

`field`: a hash-grid field and its volume renderer. `image`: θ is the latent itself, the 2D generation that
DreamTime measures its schedules on (arXiv 2306.12422, fig. 8).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from harness import rng
from harness.scene import occupancy
from harness.scene.cameras import Cameras
from harness.scene.field import HashField, Params, choose_backend
from harness.scene.regularisers import penalties
from harness.scene.renderer import Render, render

if TYPE_CHECKING:
    from harness.config import SceneConfig

Draws = Callable[[tuple[int, ...]], Tensor]  # shape → uniform draws in [0, 1), [R, *shape]


@dataclass(frozen=True)
class View:
    """Latents x_RCHW that R cameras see, the regularisers [R] they ask for, and maps [R, …] whose means are
    logged."""

    x_RCHW: Tensor
    penalties_R: Mapping[str, Tensor] = field(default_factory=dict)
    maps_R: Mapping[str, Tensor] = field(default_factory=dict)


class Generator(Protocol):
    """R generators of one shape; their numbers are float32 tensors [R, …] that the caller owns."""

    def init(self, keys: Sequence[rng.Key], background_RC: Tensor) -> Params:
        """Fresh parameters on the CPU, a run's from its key alone."""
        ...

    def state(self, runs: int) -> Params:
        """What is known of fresh runs beside their parameters, [R, …]; it travels with their checkpoints."""
        ...

    def look(self, params: Params, state: Params, step_R: Tensor, draws: Draws) -> None:
        """Bring the state up to date before step `step_R`, in place."""
        ...

    def view(
        self,
        params: Params,
        cameras: Cameras,
        background_RC: Tensor,
        draws: Draws | None,
        state: Params | None = None,
    ) -> View:
        """What run r shows camera r, differentiable in the parameters; without `draws` nothing is random, and
        without `state` nothing is left out."""
        ...


class FieldGenerator:
    """A hash-grid field in latent space, seen by volume rendering."""

    def __init__(self, cfg: SceneConfig, channels: int, backend: str):
        self.cfg = cfg
        self.field = HashField(cfg, channels, backend)

    def init(self, keys: Sequence[rng.Key], background_RC: Tensor) -> Params:
        """See `HashField.init`."""
        return self.field.init(keys, background_RC)

    def state(self, runs: int) -> Params:
        """The grids of `harness.scene.occupancy`, where the scene keeps them."""
        return occupancy.fresh(self.cfg, runs) if self.cfg.occupancy else {}

    def look(self, params: Params, state: Params, step_R: Tensor, draws: Draws) -> None:
        """See `harness.scene.occupancy`."""
        if self.cfg.occupancy and (due_R := occupancy.due(self.cfg, step_R)).any():
            occupancy.update(self.field, params, state, due_R.nonzero()[:, 0], draws)

    def view(
        self,
        params: Params,
        cameras: Cameras,
        background_RC: Tensor,
        draws: Draws | None,
        state: Params | None = None,
    ) -> View:
        """A render at the scene's resolution; `draws` place the samples along the rays."""
        out = self.render(params, cameras, background_RC, draws, self.cfg.resolution, state)
        # An evaluation view is only looked at: its regularisers are nobody's loss.
        terms = penalties(self.field, params, out) if draws else {}
        return View(out.x_RCHW, terms, {"opacity": out.opacity_RHW})

    def render(
        self,
        params: Params,
        cameras: Cameras,
        background_RC: Tensor,
        draws: Draws | None,
        side: int,
        state: Params | None = None,
    ) -> Render:
        """A render of side × side pixels."""
        jitter_RPS = draws((side * side, self.cfg.samples)) if draws else None
        kept = partial(occupancy.kept, self.cfg, state) if state else None
        return render(self.field, params, cameras, background_RC, jitter_RPS, side, side, kept)


class ImageGenerator:
    """θ is the latent [C, H, W] itself, from standard normal noise; every camera sees the same picture."""

    def __init__(self, cfg: SceneConfig, channels: int):
        self.shape = (channels, cfg.resolution, cfg.resolution)

    def init(self, keys: Sequence[rng.Key], background_RC: Tensor) -> Params:
        """ "image": [R, C, H, W]."""
        return {"image": rng.normal(keys, [0] * len(keys), "init", self.shape)}

    def state(self, runs: int) -> Params:
        """Nothing."""
        return {}

    def look(self, params: Params, state: Params, step_R: Tensor, draws: Draws) -> None:
        """Nothing is left out of a picture."""

    def view(
        self,
        params: Params,
        cameras: Cameras,
        background_RC: Tensor,
        draws: Draws | None,
        state: Params | None = None,
    ) -> View:
        """The picture."""
        # A node of its own: the gradient at x and the parameter it is carried on to are two tensors.
        return View(params["image"] * 1.0)


def make_generator(cfg: SceneConfig, channels: int, device: str, encoder: str = "auto") -> Generator:
    """The generator that the config names; `encoder` as in `choose_backend`."""
    if cfg.kind == "image":
        return ImageGenerator(cfg, channels)
    return FieldGenerator(cfg, channels, choose_backend(device, encoder))
