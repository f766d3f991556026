"""tiny-cuda-nn's `Encoding` of a hash grid in plain torch, with its interface and its layout of parameters.

Written from its sources (include/tiny-cuda-nn/encodings/grid.h, bindings/torch/tinycudann/modules.py), not
from this package: a flat vector of float32 parameters that is cast to the module's precision, scales in
float32, a hash of 32 bits, dense levels padded to a multiple of 8 entries.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

DTYPE = torch.float32  # of the features; a test may choose half precision, as tiny-cuda-nn does by default


class Encoding(nn.Module):
    def __init__(self, n_input_dims: int, encoding_config: dict[str, Any], seed: int = 1337) -> None:
        super().__init__()
        assert n_input_dims == 3 and encoding_config["otype"] == "HashGrid"
        self.features = encoding_config["n_features_per_level"]
        most = 1 << encoding_config["log2_hashmap_size"]
        log2_growth = np.log2(np.float32(encoding_config["per_level_scale"]))
        self.levels, first = [], 0
        for level in range(encoding_config["n_levels"]):
            base = np.float32(encoding_config["base_resolution"])
            scale = np.exp2(np.float32(level) * log2_growth) * base - np.float32(1)
            resolution = int(np.ceil(scale)) + 1
            entries = min((resolution**3 + 7) // 8 * 8, most)
            self.levels.append((float(scale), resolution, first, entries))
            first += entries
        torch.manual_seed(seed)
        self.params = nn.Parameter(torch.rand(first * self.features) * 2e-4 - 1e-4)
        self.n_output_dims = len(self.levels) * self.features

    def forward(self, x: Tensor) -> Tensor:
        assert x.dim() == 2 and x.shape[1] == 3 and x.dtype == torch.float32
        table = self.params.to(DTYPE).view(-1, self.features)
        out = []
        for scale, resolution, first, entries in self.levels:
            position = x * scale + 0.5
            cell = position.floor().long()
            fraction = position - cell
            total = torch.zeros(len(x), self.features, dtype=DTYPE)
            for corner in range(8):
                weight, index, stride, hashed = torch.ones(len(x)), 0, 1, 0
                for dim, prime in enumerate((1, 2654435761, 805459861)):
                    bit = corner >> dim & 1
                    weight = weight * (fraction[:, dim] if bit else 1 - fraction[:, dim])
                    place = cell[:, dim] + bit
                    hashed = hashed ^ (place * prime & 0xFFFFFFFF)
                    if stride <= entries:
                        index, stride = index + place * stride, stride * resolution
                index = (hashed if entries < stride else index) % entries
                total = total + weight.to(DTYPE)[:, None] * table[first + index]
            out.append(total)
        return torch.cat(out, dim=1)
