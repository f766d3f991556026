"""A hash grid and a small network give density and latent, volume rendering shows them (Instant-NGP)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from harness import rng
from harness.scene import hashgrid, tcnn
from harness.scene.contract import Params
from harness.scene.network import network, perceptron
from harness.scene.volume import VolumeScene

if TYPE_CHECKING:
    from harness.config import SceneConfig


class HashField(VolumeScene):
    """R fields whose parameters are "table" [R, E, F], "w1" [R, H, L·F], "b1" [R, H], "w2" [R, 1 + C, H],
    "b2" [R, 1 + C] and, where the background is learned, "background" [R, C]."""

    reads = (
        *VolumeScene.reads,
        *("levels", "features", "log2_hashmap", "base_resolution", "growth", "hidden"),
    )

    def __init__(self, cfg: SceneConfig, channels: int, encoder: str = "torch"):
        super().__init__(cfg, channels, encoder)
        self._settings = (cfg.levels, cfg.features, cfg.log2_hashmap, cfg.base_resolution, cfg.growth)
        self.grid = hashgrid.grid(*self._settings)
        self._by_tcnn = encoder == "tinycudann" and tcnn.agrees(self.grid, cfg.base_resolution, cfg.growth)
        if encoder == "tinycudann" and not self._by_tcnn:
            told = "tiny-cuda-nn rounds a level of this hash grid otherwise (scene.growth); using torch"
            logging.getLogger(__name__).warning(told)

    @property
    def finest_cells(self) -> int:
        """Those of the finest level, which holds nothing finer."""
        return self.grid.resolutions_L[-1]

    def init(self, keys: Sequence[rng.Key], background_RC: Tensor) -> Params:
        """Fresh parameters on the CPU, a run's from its key alone.

        Table uniform in ±1e-4 (Instant-NGP §3), weights uniform in ±sqrt(6 / inputs) and ±sqrt(3 / inputs)
        (He), biases zero. background_RC: where a learned background starts.
        """
        widths = (self.cfg.levels * self.cfg.features, self.cfg.hidden, 1 + self.channels)
        params = network(keys, widths, table=((self.grid.entries, self.cfg.features), 1e-4))
        return params | self.learned_background(background_RC)

    def density_latent(self, params: Params, x_RN3: Tensor) -> Tensor:
        """`field`, zero outside the cube, by the encoder's kernels where it has any."""
        if not self.fused:
            return super().density_latent(params, x_RN3)
        table, w1, b1, w2, b2 = (params[name] for name in ("table", "w1", "b1", "w2", "b2"))
        blob = (self.cfg.bound, self.cfg.density_bias, self.cfg.density_radius)
        return self.fused.query(self.grid, blob, x_RN3, table, w1, b1, w2, b2)

    def field(self, params: Params, x_RN3: Tensor) -> Tensor:
        """Density is softplus(network + λ(1 - |x|/σ)), DreamFusion's blob."""
        return self.blobbed(x_RN3, self.outputs(params, x_RN3))

    def outputs(self, params: Params, x_RN3: Tensor) -> Tensor:
        """What the network says at points, [R, N, 1 + C], in plain torch or by tiny-cuda-nn."""
        unit_RN3 = (x_RN3 * (0.5 / self.cfg.bound) + 0.5).clamp(0, 1)
        if self._by_tcnn:
            features = tcnn.encode(self.grid, self._settings, params["table"], unit_RN3)
        else:
            features = hashgrid.encode(self.grid, params["table"], unit_RN3)
        return perceptron(params, features)
