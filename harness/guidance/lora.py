"""Low-rank updates of a frozen denoiser, of every run its own: one call of the denoiser serves the pack.

W·x + B_r·(A_r·x) for run r and a linear layer W (LoRA, Hu et al. 2022, arXiv 2106.09685). Updates are tensors
[R, …] by name: LAYER.down is A, [R, rank, in]; LAYER.up is B, [R, out, rank]. `TIME` is what is added to the
embedding of t, [R, D]: the way in for a condition that the denoiser was not made for, such as a camera.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harness import rng
from harness.config import UserError, nearest

ATTENTION = r"(^|\.)(to_(q|k|v|out\.0|add_out)|add_(q|k|v)_proj)$"  # every projection of attention
TIME = "time"


def fresh(
    keys: Sequence[rng.Key], linears: Mapping[str, tuple[int, int]], rank: int, layers: str = ATTENTION
) -> dict[str, Tensor]:
    """Updates that change nothing yet, on the CPU: A uniform in ±1/√in from each run's key, B zero.

    `linears`: (out, in) by layer (`Shapes.linears`), of which those that the expression `layers` finds are
    updated. Raises UserError where it finds none.
    """
    chosen = {name: shape for name, shape in linears.items() if re.search(layers, name)}
    if not chosen:
        raise UserError(f"lora: no linear layer of this denoiser matches {layers}")
    made: dict[str, Tensor] = {}
    for name, (rows, columns) in chosen.items():
        draws = rng.uniform(keys, [0] * len(keys), "method", (rank, columns), part=f"lora {name}")
        made[f"{name}.down"] = (2 * draws - 1) / columns**0.5
        made[f"{name}.up"] = torch.zeros(len(keys), rows, rank)
    return made


def linears(denoiser: nn.Module) -> dict[str, tuple[int, int]]:
    """(out, in) of every linear layer, by its name."""
    return {
        name: (layer.out_features, layer.in_features)
        for name, layer in denoiser.named_modules()
        if isinstance(layer, nn.Linear)
    }


def time_width(denoiser: nn.Module) -> int:
    """D of the embedding of t."""
    return next(
        layer.out_features for layer in reversed([*_time(denoiser).modules()]) if isinstance(layer, nn.Linear)
    )


def _time(denoiser: Any) -> nn.Module:
    """The part that makes the embedding of t, to whose output a class embedding would be added, too."""
    return denoiser.time_embedding if hasattr(denoiser, "time_embedding") else denoiser.time_text_embed


_now = threading.local()  # the updates of the samples that this thread's call is about


@contextmanager
def attached(denoiser: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Inside, the named updates take part in calls of the denoiser that are made within `applied`.

    Raises UserError for an update of a layer that there is not.
    """
    layers = {name.removesuffix(".down").removesuffix(".up") for name in names if name != TIME}
    modules = dict(denoiser.named_modules())
    handles = []
    try:
        for name in sorted(layers):
            layer = modules.get(name)
            if not isinstance(layer, nn.Linear) or not {f"{name}.down", f"{name}.up"} <= {*names}:
                raise UserError(f"lora: no linear layer '{name}' with .down and .up{nearest(name, modules)}")
            handles.append(layer.register_forward_hook(partial(_add_to_layer, name)))
        if TIME in names:
            handles.append(_time(denoiser).register_forward_hook(_add_to_time))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def applied(updates: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, this thread's call of the denoiser uses these updates, a row for each of its samples."""
    _now.updates = updates
    try:
        yield
    finally:
        del _now.updates


def _add_to_layer(name: str, layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
    if not hasattr(_now, "updates"):
        return None
    x = inputs[0]
    down, up = (_now.updates[f"{name}.{part}"].to(x.dtype) for part in ("down", "up"))
    low = torch.bmm(x.reshape(len(x), -1, x.shape[-1]), down.mT)
    return out + torch.bmm(low, up.mT).reshape(out.shape)


def _add_to_time(layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
    return out + _now.updates[TIME].to(out.dtype) if hasattr(_now, "updates") else None
