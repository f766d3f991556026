"""The scene's part of a step as plain callables, to be timed side by side (fused against reference, R against
1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from harness import rng
from harness.scene.cameras import sample
from harness.scene.field import HashField
from harness.scene.regularisers import penalties
from harness.scene.renderer import render

if TYPE_CHECKING:
    from harness.config import Config


def field_pass(config: Config, backend: str, runs: int, channels: int = 4) -> Callable[[], None]:
    """One query of as many points as a step has, forward and backward, at random points of the cube."""
    scene = config.scene
    field = HashField(scene, channels, backend)
    seeds, zeros = list(range(runs)), [0] * runs
    params = field.init(seeds, torch.zeros(runs, channels))
    leaves = [params[name].requires_grad_() for name in ("table", "w1", "b1", "w2", "b2")]
    points = scene.resolution**2 * scene.samples
    x_RN3 = (2 * rng.uniform(seeds, zeros, "eval", (points, 3)) - 1) * scene.bound
    g_RNO = rng.normal(seeds, zeros, "noise", (points, 1 + channels))

    def run() -> None:
        torch.autograd.grad(field.density_latent(params, x_RN3), leaves, g_RNO)

    return run


def scene_step(config: Config, backend: str, runs: int, channels: int = 4) -> Callable[[], None]:
    """Everything of a step but the denoiser and the optimiser: cameras, render, regularisers and backward
    pass."""
    scene = config.scene
    field = HashField(scene, channels, backend)
    seeds, zeros, side = list(range(runs)), [0] * runs, scene.resolution
    background_RC = rng.normal(seeds, zeros, "background", (channels,))
    params = field.init(seeds, background_RC)
    leaves = [value.requires_grad_() for value in params.values()]
    g_RCHW = rng.normal(seeds, zeros, "noise", (channels, side, side))

    def run() -> None:
        cameras = sample(config.camera, rng.uniform(seeds, zeros, "camera", (4,)))
        jitter_RPS = rng.uniform(seeds, zeros, "render", (side * side, scene.samples))
        picture = render(field, params, cameras, background_RC, jitter_RPS, side, side)
        loss = (picture.x_RCHW * g_RCHW).sum()
        for term_R in penalties(field, params, picture).values():
            loss = loss + term_R.sum()
        torch.autograd.grad(loss, leaves)

    return run
