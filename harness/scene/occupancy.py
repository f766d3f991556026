"""Which cells of a run's cube hold anything: training samples elsewhere are not computed.

After Instant-NGP (arXiv 2201.05989, appendix E.2), with a float per cell: every few steps a cell's value
becomes the larger of its decayed self and the density at a random point of it. Samples are computed in cells
that hold something and in those beside them, so that an object may grow. Evaluation renders look everywhere.
Biased: what is thinner than the threshold is taken for nothing, and gets no gradient there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import max_pool3d

from harness.scene.contract import Params

if TYPE_CHECKING:
    from harness.config import SceneConfig
    from harness.scene.volume import VolumeScene

DECAY = 0.95


def fresh(cfg: SceneConfig, runs: int) -> Params:
    """The grids of new runs, filled at their first step: "density" [R, G³] and where samples are "kept"."""
    cells = cfg.occupancy**3
    return {"density": torch.zeros(runs, cells), "kept": torch.zeros(runs, cells, dtype=torch.bool)}


def due(cfg: SceneConfig, step_R: Tensor) -> Tensor:
    """Whether a run's grid is looked at again before step `step_R`, counted from 1."""
    return (step_R - 1) % cfg.occupancy_every == 0


@torch.no_grad()
def update(
    scene: VolumeScene,
    params: Params,
    grids: Params,
    runs: Tensor,
    draws: Callable[[tuple[int, ...]], Tensor],
) -> None:
    """Look at the cells of `runs` (indices) anew, in place; `draws` place a point in each cell."""
    cfg, G, index = scene.cfg, scene.cfg.occupancy, runs.to(grids["kept"].device)
    axis_G = torch.arange(G, device=index.device, dtype=torch.float32)
    corner_N3 = torch.stack(torch.meshgrid(axis_G, axis_G, axis_G, indexing="ij"), -1).flatten(0, 2)
    inside_RN3 = (corner_N3 + draws((G**3, 3))[index]) / G
    chosen = {name: value[index] for name, value in params.items()}
    density_RN = scene.density_latent(chosen, (2 * inside_RN3 - 1) * cfg.bound)[..., 0]
    density_RN = torch.maximum(grids["density"][index] * DECAY, density_RN)
    near_RN = max_pool3d(density_RN.view(-1, G, G, G), 3, stride=1, padding=1).flatten(1)
    grids["density"][index], grids["kept"][index] = density_RN, near_RN >= cfg.occupancy_density


def kept(cfg: SceneConfig, grids: Params, x_RN3: Tensor) -> Tensor:
    """Whether points of the cube are computed, [R, N]."""
    G = cfg.occupancy
    cell_RN3 = ((x_RN3 * (0.5 / cfg.bound) + 0.5) * G).long().clamp(0, G - 1)
    x, y, z = cell_RN3.unbind(-1)
    return grids["kept"].gather(1, (x * G + y) * G + z)
