"""The encoders: what computes a hash grid, and a ray's composite, on a device.

`numba` on CPUs, `triton` and `tinycudann` on CUDA, and `torch`, the reference, everywhere.
"""

from __future__ import annotations

import importlib
import logging
from functools import cache
from typing import Any

import torch

from harness.config import ENCODERS, UserError, nearest
from harness.device import has_c_compiler
from harness.scene import tcnn


@cache
def unavailable(encoder: str) -> str | None:
    """Why an encoder cannot be used on this machine, in a few words, or None where it can."""
    if encoder == "tinycudann":
        return tcnn.missing()
    if encoder == "triton":
        if not torch.cuda.is_available():
            return "there is no CUDA device"
        if not has_c_compiler():
            return "there is no C compiler"
    try:
        fused(encoder)
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: nowhere to cache compiled code
        return str(error).splitlines()[0]
    return None


@cache
def choose_encoder(device: str, requested: str = "auto") -> str:
    """The encoder to use on a device: `requested`, or for "auto" the fastest there is.

    Falls back to "torch" with one line of notice when the fastest is missing. One asked for by name
    that cannot be used is a UserError, and so is an unknown name.
    """
    kind = torch.device(device).type
    if requested not in ENCODERS:
        raise UserError(f"unknown encoder '{requested}'{nearest(requested, ENCODERS)}")
    wanted = requested if requested != "auto" else {"cpu": "numba", "cuda": "triton"}.get(kind, "torch")
    reason = unavailable(wanted)
    if wanted != "torch" and reason is None and (wanted == "numba") != (kind == "cpu"):
        reason = f"it does not run on {kind}"
    if reason is None:
        return wanted
    if requested != "auto":
        raise UserError(f"encoder '{requested}' cannot be used: {reason}; choose auto or torch")
    logging.getLogger(__name__).warning("encoder %s is not available (%s); using torch", wanted, reason)
    return "torch"


def fused(encoder: str) -> Any:
    """The encoder's module with `query` and `composite`; None where torch does both."""
    name = {"numba": "fused_cpu", "triton": "fused_cuda"}.get(encoder)
    return importlib.import_module(f"harness.scene.{name}") if name else None
