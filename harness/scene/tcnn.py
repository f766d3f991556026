"""tiny-cuda-nn's hash grid behind the interface of harness.scene.hashgrid.encode, where a user has built it.

Its table is ours, flat: level by level, dense ones x first and padded to a multiple of 8 entries.

Source: github.com/NVlabs/tiny-cuda-nn, bindings/torch. It interpolates in half precision: its spread is the
GPU's.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.scene.hashgrid import Grid


def missing() -> str | None:
    """Why this backend cannot be used, in a few words, or None where it can; imports tinycudann only on
    CUDA."""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    try:
        import tinycudann  # type: ignore[import-not-found]  # noqa: F401
    except ModuleNotFoundError:
        return "tinycudann is not installed; it is built from github.com/NVlabs/tiny-cuda-nn, bindings/torch"
    except (ImportError, OSError) as error:  # OSError, alias EnvironmentError: built for another device
        return f"tinycudann does not import: {(str(error) or type(error).__name__).splitlines()[0]}"
    return None


@cache
def _encoding(levels: int, features: int, log2_hashmap: int, base_resolution: int, growth: float) -> Any:
    import tinycudann  # type: ignore[import-not-found]

    settings = {
        "otype": "HashGrid",
        "n_levels": levels,
        "n_features_per_level": features,
        "log2_hashmap_size": log2_hashmap,
        "base_resolution": base_resolution,
        "per_level_scale": growth,
    }
    return tinycudann.Encoding(3, settings)


def agrees(grid: Grid, base_resolution: int, growth: float) -> bool:
    """Whether tiny-cuda-nn, which computes a level's scale in float32, gives the dense levels the resolutions
    of `grid`: where base_resolution · growth**level is a whole number, rounding may add a cell."""
    level_L = np.arange(grid.levels, dtype=np.float32)
    scale_L = np.exp2(level_L * np.log2(np.float32(growth))) * np.float32(base_resolution) - np.float32(1)
    resolution_L = np.ceil(scale_L).astype(int) + 1
    return all(
        grid.resolutions_L[level] == resolution_L[level] for level in range(grid.levels) if grid.dense(level)
    )


def encode(
    grid: Grid, settings: tuple[int, int, int, int, float], table_REF: Tensor, x_RN3: Tensor
) -> Tensor:
    """Features [R, N, L·F] float32 at points of the unit cube; one call of tiny-cuda-nn per run.

    settings: the arguments of hashgrid.grid that made `grid`. Raises ValueError where tiny-cuda-nn's table
    has another size than ours.
    """
    encoding = _encoding(*settings)
    numbers = grid.entries * grid.features
    if encoding.params.numel() != numbers:
        raise ValueError(f"tiny-cuda-nn's table has {encoding.params.numel()} numbers, the grid {numbers}")
    features = [
        torch.func.functional_call(encoding, {"params": table_EF.reshape(-1)}, (x_N3,))
        for table_EF, x_N3 in zip(table_REF, x_RN3, strict=True)
    ]
    return torch.stack(features).float()
