"""Three planes of features, summed at a point, and a small network (EG3D's triplane)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import grid_sample

from harness import rng
from harness.scene.contract import Params, SceneSettings
from harness.scene.network import network, perceptron
from harness.scene.regularisers import variation
from harness.scene.renderer import Render
from harness.scene.volume import VolumeScene

AXES = ((0, 1), (0, 2), (1, 2))  # of a point, that each plane is read at


class Settings(SceneSettings):
    """Of three planes."""

    cells: int = Field(default=32, ge=2, le=512, description="along an axis of a plane")
    channels: int = Field(default=8, ge=1, le=64, description="features of a plane")
    variation: float = Field(default=0.0, ge=0, description="weight of the planes' total variation")
    rate: float = Field(default=2.0, gt=0, description="factor of optim.lr for the planes")


class Triplane(VolumeScene):
    """R times "planes" [R, 3, F, H, W] and a network "w1", "b1", "w2", "b2" with one hidden layer.

    The planes' features are summed and decoded, as in Chan et al. 2022 (arXiv 2112.07945, section 3.1).
    """

    Settings = Settings
    reads = (*VolumeScene.reads, "hidden")

    def learning_rates(self) -> Mapping[str, float]:
        """Planes take larger steps than the network's weights."""
        return {"planes": self.own.rate}

    @property
    def finest_cells(self) -> int:
        """A plane's own."""
        return self.own.cells

    def init(self, keys: Sequence[rng.Key], background_RC: Tensor) -> Params:
        """Planes uniform in ±0.1, the network as in `harness.scene.network.layers`."""
        widths = (self.own.channels, self.cfg.hidden, 1 + self.channels)
        params = network(keys, widths, planes=((3, self.own.channels, *[self.own.cells + 1] * 2), 0.1))
        return params | self.learned_background(background_RC)

    def field(self, params: Params, x_RN3: Tensor) -> Tensor:
        """The network's outputs at the sum of what the planes hold."""
        planes_QFHW = params["planes"].flatten(0, 1)
        unit_RN3 = (x_RN3 / self.bound).to(planes_QFHW.dtype)
        at_QN12 = torch.stack([unit_RN3[..., list(pair)] for pair in AXES], 1).flatten(0, 1)[:, :, None]
        features_QFN = grid_sample(planes_QFHW, at_QN12, padding_mode="border", align_corners=True)[..., 0]
        x, y, z = features_QFN.unflatten(0, (-1, 3)).unbind(1)
        return self.blobbed(x_RN3, perceptron(params, (x + y + z).transpose(1, 2)))

    def penalties(self, params: Params, out: Render) -> dict[str, Tensor]:
        """With the total variation, where it has a weight."""
        terms = super().penalties(params, out)
        if self.own.variation > 0:
            terms["variation"] = self.own.variation * variation(params["planes"], 2)
        return terms
