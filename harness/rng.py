"""Randomness as a pure function of (seed, step, stream); nothing about a generator is ever saved."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Stream = Literal["init", "camera", "timestep", "noise", "background", "eval", "render", "occupancy", "method"]
STREAMS: tuple[Stream, ...] = get_args(Stream)


def stream(seed: int, step: int, name: Stream) -> torch.Generator:
    """A CPU generator that depends on (seed, step, name) alone.

    Raises ValueError for a name outside `STREAMS`, so that a typo cannot open a stream of its own.
    """
    if name not in STREAMS:
        raise ValueError(f"unknown random stream '{name}'; streams: {', '.join(STREAMS)}")
    digest = hashlib.blake2b(f"{seed}/{step}/{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def normal(seeds: Sequence[int], steps: Sequence[int], name: Stream, shape: Sequence[int]) -> Tensor:
    """Standard normal draws, float32 on the CPU, [R, *shape]: one draw per (seed, step)."""
    return torch.stack(
        [torch.randn(tuple(shape), generator=stream(s, i, name)) for s, i in zip(seeds, steps, strict=True)]
    )


def uniform(seeds: Sequence[int], steps: Sequence[int], name: Stream, shape: Sequence[int]) -> Tensor:
    """Uniform draws in [0, 1), float32 on the CPU, [R, *shape]: one draw per (seed, step)."""
    return torch.stack(
        [torch.rand(tuple(shape), generator=stream(s, i, name)) for s, i in zip(seeds, steps, strict=True)]
    )
