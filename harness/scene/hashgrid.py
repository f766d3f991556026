"""Multiresolution hash grid (Instant-NGP, arXiv 2201.05989 §3) and its reference encoder in plain torch.

Level scales, table sizes, the hash and the half-cell offset are tiny-cuda-nn's, so that a table means the
same field to every backend. Sizes: R runs, N points, L levels, F features per level, E entries of all levels
together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

PRIMES = (1, 2654435761, 805459861)


@dataclass(frozen=True)
class Grid:
    """Geometry of the levels: per level its scale (cells per unit), resolution, first entry and size.

    A level whose lattice fits into 2**log2_hashmap entries is stored densely, a finer one is hashed.
    """

    scales_L: tuple[float, ...]
    resolutions_L: tuple[int, ...]
    offsets_L: tuple[int, ...]
    sizes_L: tuple[int, ...]
    features: int

    @property
    def levels(self) -> int:
        return len(self.scales_L)

    @property
    def entries(self) -> int:
        return self.offsets_L[-1] + self.sizes_L[-1]

    def dense(self, level: int) -> bool:
        """Whether the level's lattice is stored without hashing."""
        return self.resolutions_L[level] ** 3 <= self.sizes_L[level]

    @property
    def geometry(self) -> list[tuple[int, int, int, bool]]:
        """Of each level its first entry, size, resolution, and whether it is dense, as kernels take them."""
        dense = map(self.dense, range(self.levels))
        return list(zip(self.offsets_L, self.sizes_L, self.resolutions_L, dense, strict=True))


def grid(levels: int, features: int, log2_hashmap: int, base_resolution: int, growth: float) -> Grid:
    """The grid with these settings; level l has about base_resolution · growth**l cells along an axis."""
    scales = tuple(base_resolution * growth**level - 1 for level in range(levels))
    resolutions = tuple(math.ceil(scale) + 1 for scale in scales)
    sizes = tuple(min(-(-(resolution**3) // 8) * 8, 2**log2_hashmap) for resolution in resolutions)
    offsets = tuple(sum(sizes[:level]) for level in range(levels))
    return Grid(scales, resolutions, offsets, sizes, features)


def encode(grid: Grid, table_REF: Tensor, x_RN3: Tensor) -> Tensor:
    """Features [R, N, L·F] at points of the unit cube by trilinear interpolation on every level.

    Differentiable in the table, not in the points.
    """
    R, E, F = table_REF.shape
    flat_F = table_REF.reshape(R * E, F)
    first_R11 = torch.arange(R, device=x_RN3.device)[:, None, None] * E
    corners_83 = torch.tensor([[c & 1, c >> 1 & 1, c >> 2] for c in range(8)], device=x_RN3.device)
    features = []
    for level in range(grid.levels):
        scaled_RN3 = x_RN3 * grid.scales_L[level] + 0.5
        cell_RN3 = scaled_RN3.floor()
        fraction_RN13 = (scaled_RN3 - cell_RN3)[:, :, None]
        lattice_RN83 = cell_RN3.long()[:, :, None] + corners_83
        weight_RN8 = torch.where(corners_83.bool(), fraction_RN13, 1 - fraction_RN13).prod(-1)
        x, y, z = lattice_RN83.unbind(-1)
        if grid.dense(level):
            resolution = grid.resolutions_L[level]
            index_RN8 = x + resolution * (y + resolution * z)
        else:
            index_RN8 = (x * PRIMES[0]) ^ (y * PRIMES[1]) ^ (z * PRIMES[2])
        index_RN8 = index_RN8 % grid.sizes_L[level] + grid.offsets_L[level] + first_R11
        features.append((functional.embedding(index_RN8, flat_F) * weight_RN8[..., None]).sum(2))
    return torch.cat(features, dim=-1)
