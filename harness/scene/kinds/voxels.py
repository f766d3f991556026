"""A dense grid of density and latent, trilinear between its corners (DVGO, Plenoxels)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field
from torch import Tensor
from torch.nn.functional import grid_sample

from harness import rng
from harness.scene.contract import Params, SceneSettings
from harness.scene.network import drawn
from harness.scene.regularisers import variation
from harness.scene.renderer import Render
from harness.scene.volume import VolumeScene


class Settings(SceneSettings):
    """Of a dense grid."""

    cells: int = Field(default=32, ge=2, le=256, description="along an axis")
    variation: float = Field(default=0.05, ge=0, description="weight of the grid's total variation")
    rate: float = Field(default=8.0, gt=0, description="factor of optim.lr for the grid")


class Voxels(VolumeScene):
    """R grids "grid" [R, 1 + C, Z, Y, X] over the cube: density before its softplus, and latent.

    Interpolated before the softplus, as DVGO does (Sun et al. 2022, arXiv 2111.11215); the total variation is
    that of Plenoxels (Fridovich-Keil et al. 2022, arXiv 2112.05131).
    """

    Settings = Settings

    def learning_rates(self) -> Mapping[str, float]:
        """A corner is seen by few rays: it takes larger steps than a network's weight."""
        return {"grid": self.own.rate}

    @property
    def finest_cells(self) -> int:
        """The grid's own."""
        return self.own.cells

    def init(self, keys: Sequence[rng.Key], background_RC: Tensor) -> Params:
        """Uniform in ±0.02: the blob, and next to no latent."""
        shape = (1 + self.channels, *[self.own.cells + 1] * 3)
        return drawn(keys, {"grid": (shape, 0.02)}) | self.learned_background(background_RC)

    def field(self, params: Params, x_RN3: Tensor) -> Tensor:
        """The grid's values between its corners."""
        grid_ROZYX = params["grid"]
        at_RN113 = (x_RN3 / self.bound).to(grid_ROZYX.dtype)[:, :, None, None]
        out_RON = grid_sample(grid_ROZYX, at_RN113, padding_mode="border", align_corners=True)[..., 0, 0]
        return self.blobbed(x_RN3, out_RON.transpose(1, 2))

    def penalties(self, params: Params, out: Render) -> dict[str, Tensor]:
        """With the total variation."""
        terms = super().penalties(params, out)
        if self.own.variation > 0:
            terms["variation"] = self.own.variation * variation(params["grid"], 3)
        return terms
