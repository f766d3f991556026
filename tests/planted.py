"""A finished run whose geometry is known: a kind of scene made of soft balls, and views of any pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from harness.config import Config
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec
from harness.scene.kind import look_in
from tests.eval.conftest import SUITE

KIND = '''"""Soft balls: each a centre, a radius and a density."""

import torch

from harness.scene.volume import VolumeScene

EDGE = 0.002


class Balls(VolumeScene):
    def init(self, keys, background_RC):
        return {"balls": torch.zeros(len(keys), 3, 5)}

    def field(self, params, x_RN3):
        centre, radius, density = params["balls"].split([3, 1, 1], -1)
        inside = radius.mT - (x_RN3[:, :, None] - centre[:, None]).norm(dim=-1)
        density_RN1 = ((inside / EDGE).sigmoid() * density.mT).amax(-1, keepdim=True)
        return torch.cat([density_RN1, x_RN3.repeat(1, 1, self.channels)[..., : self.channels]], -1)
'''
Ball = tuple[float, float, float, float, float]  # x, y, z, radius, density


def kinds(folder: Path) -> None:
    """Makes the kind known to this process, from a file in `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "balls.py").write_text(KIND)
    look_in([folder])


def run(root: Path, balls: Sequence[Ball], images_VHWC: np.ndarray | None = None, **spec) -> RunFolder:
    """A done run of the toy preset with up to three balls and a ring of eight views; `spec` as
    `RunSpec`'s."""
    cfg = Config.model_validate(
        {
            "scene": {"kind": "balls", "samples": 64},
            "steps": 1,
            "views": {"count": 1, "heldout_elevation": None},
        }
    )
    asked = {"method": "tp_sds", "prompt": "a red cup", "seed": 0, "suite": SUITE, "config": cfg} | spec
    folder = RunFolder.create(root, RunSpec(**asked))
    folder.save_env({"prior": {"tag": "toy-sd", "weights_hash": "f" * 64, "is_toy": True}})
    if images_VHWC is None:
        images_VHWC = np.full((cfg.views.tiles, 32, 32, 3), 128, np.uint8)
    folder.save_views(1, images_VHWC)
    padded = [*balls, *[(0.0,) * 5] * (3 - len(balls))]
    folder.save_checkpoint({"params.balls": torch.tensor(padded)}, 1)
    folder.finish({"steps": 1})
    return folder
