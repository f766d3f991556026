"""Randomness as a pure function of (prompt, seed, step, stream); nothing about a generator is ever saved."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from harness.prompt import normalised

Stream = Literal[
    "init", "camera", "timestep", "noise", "background", "eval", "render", "occupancy", "scene", "method"
]
STREAMS: tuple[Stream, ...] = get_args(Stream)


class Key(NamedTuple):
    """Whose draws they are: a run's prompt, in any spelling of `normalised`, and its seed.

    Runs of different methods at one key see the same; different prompts at one seed share nothing, so that
    seeds are nested in prompts, as statistics take them.
    """

    prompt: str
    seed: int


def stream(key: Key, step: int, name: Stream, part: str = "") -> torch.Generator:
    """A CPU generator that depends on (prompt, seed, step, name, part) alone; parts are streams of their own.

    Raises ValueError for a name outside `STREAMS`, so that a typo cannot open a stream of its own.
    """
    if name not in STREAMS:
        raise ValueError(f"unknown random stream '{name}'; streams: {', '.join(STREAMS)}")
    named = f"{name}:{part}" if part else name
    text = f"{key.seed}/{step}/{named}/{normalised(key.prompt)}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def normal(
    keys: Sequence[Key], steps: Sequence[int], name: Stream, shape: Sequence[int], part: str = ""
) -> Tensor:
    """Standard normal draws, float32 on the CPU, [R, *shape]: one draw per (key, step)."""
    drawn = zip(keys, steps, strict=True)
    return torch.stack([torch.randn(tuple(shape), generator=stream(k, i, name, part)) for k, i in drawn])


def uniform(
    keys: Sequence[Key], steps: Sequence[int], name: Stream, shape: Sequence[int], part: str = ""
) -> Tensor:
    """Uniform draws in [0, 1), float32 on the CPU, [R, *shape]: one draw per (key, step)."""
    drawn = zip(keys, steps, strict=True)
    return torch.stack([torch.rand(tuple(shape), generator=stream(k, i, name, part)) for k, i in drawn])
