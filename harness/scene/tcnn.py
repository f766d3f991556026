"""tiny-cuda-nn's hash grid behind the interface of harness.scene.hashgrid.encode, where a user has built it.

Source: github.com/NVlabs/tiny-cuda-nn, bindings/torch. It interpolates in half precision: its spread is the
GPU's.
"""

from __future__ import annotations

from functools import cache
from typing import Any

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
    except (
        ImportError,
        OSError,
    ) as error:  # OSError, alias EnvironmentError: built for another device or driver
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
