"""A finished run whose object is known: a field fitted to a box of two colours, decoded by the toy prior."""

from functools import cache
from pathlib import Path

import torch
from torch.nn.functional import mse_loss

from harness.config import Config, GuidanceConfig
from harness.guidance.prior import Guidance
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec
from harness.rng import Key
from harness.scene.kind import make_scene

HALF_3 = (0.6, 0.45, 0.3)  # of the box in the middle, along x, y and z
RED, BLUE = (0.8, 0.1, 0.1), (0.1, 0.2, 0.8)  # where y > 0, and where not
DENSITY = 30.0
SCENE = {"levels": 5, "log2_hashmap": 12, "density_bias": 0.0}
STEPS = 200
POINTS = 2048


def config() -> Config:
    """The toy preset with a small field."""
    return Config.model_validate({"scene": SCENE, "steps": 1, "views": {"count": 1}})


def inside(x_N3: torch.Tensor) -> torch.Tensor:
    """Whether points are in the box, [N]."""
    return (x_N3.abs() < torch.tensor(HALF_3)).all(-1)


@cache
def fitted() -> dict[str, torch.Tensor]:
    """Parameters, without the run dimension, of the two-coloured box."""
    cfg = config()
    prior = Guidance.load(cfg.guidance, local_files_only=True)
    scene = make_scene(cfg.scene, prior.latent_shape[0], "cpu")
    fresh = scene.init([Key("a box", 0)], torch.zeros(1, scene.channels))
    params = {name: value.requires_grad_() for name, value in fresh.items()}
    codes_2C = torch.stack([prior.flat_code(BLUE), prior.flat_code(RED)])
    optimiser = torch.optim.Adam(params.values(), 2e-2)
    draws = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        x_N3 = torch.rand(POINTS, 3, generator=draws) * 2 - 1
        density_1N, latent_1NC = scene.query(params, x_N3[None])
        is_in_N = inside(x_N3)
        target_NC = codes_2C[(x_N3[:, 1] > 0).long()]
        loss = mse_loss(density_1N[0].log1p(), torch.log1p(DENSITY * is_in_N))
        loss = loss + mse_loss(latent_1NC[0][is_in_N], target_NC[is_in_N])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {name: value.detach()[0] for name, value in params.items()}


def make(root: Path, params: dict[str, torch.Tensor], seed: int = 0) -> RunFolder:
    """A done run with these parameters."""
    cfg = config()
    folder = RunFolder.create(root, RunSpec(method="tp_sds", prompt="a box", seed=seed, config=cfg))
    folder.save_env({"prior": Guidance.load(GuidanceConfig(), local_files_only=True).record})
    folder.save_checkpoint({f"params.{name}": value for name, value in params.items()}, cfg.steps)
    folder.finish({"steps": cfg.steps})
    return folder
