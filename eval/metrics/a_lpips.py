"""A-LPIPS: how different neighbouring views of the ring look to a network, without a warp.

The mean LPIPS (Zhang et al., CVPR 2018; AlexNet, version 0.1) of every two neighbours of the ring at the last
step, after Hong et al., arXiv 2303.15413. A right object differs from view to view, too, and the more the
fewer views a ring has: read it beside the ground truth's on the same ring. The heads come with the package
lpips, AlexNet from torchvision's place in torch's cache. Views of less than `SIDE` pixels are enlarged.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from eval.metric import RING, VIEWS, Column, Need, Reference, RunMetric, Values
from eval.sources.load import RunRecord
from harness.guidance.hub import sha256_once

FILE = "alexnet-owt-7be5be79.pth"  # its sha256 begins with these digits
SIDE = 64  # which LPIPS was made for
FETCH = "python -c 'import lpips; lpips.LPIPS(net=\"alex\")'"


def _trunk() -> Path:
    return Path(torch.hub.get_dir(), "checkpoints", FILE)


def _lacks(runs: object) -> str:
    if find_spec("lpips") is None:
        return "pip install 'dreamtime-harness[lpips]'"
    return "" if _trunk().is_file() else f"no {_trunk()}; {FETCH} fetches it"


LPIPS = Need("LPIPS of AlexNet", _lacks, key=lambda runs, run: sha256_once(_trunk()))


class ALPIPS(RunMetric):
    """Failed runs and those without a ring are left out."""

    title = "LPIPS between neighbouring views"
    columns = (Column("a_lpips", "A-LPIPS", better="lower", digits=3),)
    needs = (VIEWS, RING, LPIPS)
    slow = True
    on_request = True

    @cached_property
    def _distance(self) -> Any:
        import lpips

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torchvision, for lpips' way of asking it
            return lpips.LPIPS(net="alex", verbose=False).to(self.runs.clip.device)

    @torch.inference_mode()
    def _of_ring(self, images_VHWC: np.ndarray) -> Values:
        images_V3HW = torch.from_numpy(images_VHWC.copy()).movedim(-1, 1).float().to(self.runs.clip.device)
        views_V3HW = images_V3HW / 127.5 - 1
        if views_V3HW.shape[-1] < SIDE:
            views_V3HW = interpolate(views_V3HW, size=(SIDE, SIDE), mode="bilinear")
        apart_V = self._distance(views_V3HW, views_V3HW.roll(-1, 0)).flatten()
        return {"a_lpips": float(apart_V.mean())}

    def of_run(self, run: RunRecord) -> Values:
        """Over the ring's pairs, its end and its beginning among them."""
        return self._of_ring(run.views(run.total)[: run.config.views.azimuths])

    def references(self) -> list[Reference]:
        """Ground truth, where there is any."""
        return self.of_truth(lambda prompt, images_VHWC: self._of_ring(images_VHWC))

    def notes(self) -> list[str]:
        """Which AlexNet it is, where that is not torchvision's."""
        found = sha256_once(_trunk())
        is_theirs = found.startswith(FILE.split("-")[-1][:8])
        return [*self.remarks, *([] if is_theirs else [f"AlexNet {found[:12]}, not torchvision's."])]
