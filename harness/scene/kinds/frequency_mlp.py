"""A network of sines and cosines of the position, without a grid (NeRF)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from harness import rng
from harness.scene.contract import Params, SceneSettings
from harness.scene.network import network, perceptron
from harness.scene.volume import VolumeScene


class Settings(SceneSettings):
    """Of a network."""

    bands: int = Field(default=5, ge=1, le=12, description="frequencies, each twice the one before")
    width: int = Field(default=64, ge=1, le=1024, description="of a hidden layer")
    depth: int = Field(default=3, ge=1, le=12, description="hidden layers")
    rate: float = Field(default=0.6, gt=0, description="factor of optim.lr")


class FrequencyMLP(VolumeScene):
    """R networks "w1", "b1", … on x, sin(2^k π x) and cos(2^k π x), x in units of the bound.

    The encoding is that of NeRF (Mildenhall et al. 2020, arXiv 2003.08934, eq. 4); latents do not depend on
    the direction.
    """

    Settings = Settings

    def _widths(self) -> tuple[int, ...]:
        return (3 + 6 * self.own.bands, *[self.own.width] * self.own.depth, 1 + self.channels)

    def learning_rates(self) -> Mapping[str, float]:
        """A deep network diverges at the steps that grids take."""
        numbers = range(1, len(self._widths()))
        return {f"{kind}{n}": self.own.rate for kind in "wb" for n in numbers}

    @property
    def finest_cells(self) -> int:
        """Half waves of the highest frequency, and no fewer than the usual ones."""
        return max(32, 2**self.own.bands)

    def init(self, keys: Sequence[rng.Key], background_RC: Tensor) -> Params:
        """As in `harness.scene.network.layers`."""
        return network(keys, self._widths()) | self.learned_background(background_RC)

    def field(self, params: Params, x_RN3: Tensor) -> Tensor:
        """The network's outputs."""
        unit_RN3 = (x_RN3 / self.bound).to(params["w1"].dtype)
        octaves_K = 2.0 ** torch.arange(self.own.bands, device=x_RN3.device) * math.pi
        phase_RNF = (unit_RN3[..., None] * octaves_K).flatten(2)
        encoded_RNF = torch.cat([unit_RN3, phase_RNF.sin(), phase_RNF.cos()], -1)
        return self.blobbed(x_RN3, perceptron(params, encoded_RNF))
