"""The encoders: what computes a hash grid, and a ray's composite, on a device.

`numba` on CPUs, `triton` and `tinycudann` on CUDA, and `torch`, the reference, everywhere.
"""

from __future__ import annotations

import importlib
import logging
import statistics
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from harness.config import ENCODERS, SceneConfig, UserError, nearest
from harness.device import has_c_compiler
from harness.records.memory import Memory
from harness.scene import tcnn

FASTEST = Memory[str]("encoders.json", str, days=365)
FUSED = {"cpu": ("numba",), "cuda": ("triton", "tinycudann")}  # beside torch, which runs everywhere


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
    """The encoder to use on a device: `requested`, or for "auto" the fastest there is, as it was measured.

    Falls back to "torch" with one line of notice when no other can be used. One asked for by name that cannot
    be used is a UserError, and so is an unknown name.
    """
    kind = torch.device(device).type
    if requested not in ENCODERS:
        raise UserError(f"unknown encoder '{requested}'{nearest(requested, ENCODERS)}")
    known = FUSED.get(kind, ())
    if requested == "auto":
        reasons = {name: unavailable(name) for name in known}
        usable = [name for name in known if reasons[name] is None]
        if usable:
            return usable[0] if len(known) == 1 else fastest([*usable, "torch"], device)
        told = ", ".join(f"{name}: {reason}" for name, reason in reasons.items())
        logging.getLogger(__name__).warning("no fast encoder is available (%s); using torch", told)
        return "torch"
    reason = unavailable(requested)
    if reason is None and requested not in ("torch", *known):
        reason = f"it does not run on {kind}"
    if reason:
        raise UserError(f"encoder '{requested}' cannot be used: {reason}; choose auto or torch")
    return requested


def fastest(encoders: Sequence[str], device: str) -> str:
    """Which of the encoders computes a small field soonest, forward and backward.

    A machine is measured once, and again where it has other encoders or another torch.
    """
    name = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device
    key = f"{name} · torch {torch.__version__} · {', '.join(encoders)}"
    known = FASTEST.recall(key)
    if known is not None and known in encoders:
        return known
    seconds = {encoder: measured(encoder, device) for encoder in encoders}
    best = min(seconds, key=seconds.__getitem__)
    told = ", ".join(f"{encoder} {1e3 * each:.2f} ms" for encoder, each in seconds.items())
    logging.getLogger(__name__).info("encoders on %s: %s", name, told)
    FASTEST.keep(key, best)
    return best


def measured(encoder: str, device: str, runs: int = 8, rounds: int = 5) -> float:
    """Seconds of one training view of a default field for `runs` runs, forward and backward: the median."""
    from harness.rng import Key
    from harness.scene.cameras import make
    from harness.scene.kinds.field import HashField

    scene = HashField(SceneConfig(), 4, encoder)
    flat_RC = torch.zeros(runs, 4)
    fresh = scene.init([Key("", seed) for seed in range(runs)], flat_RC)
    params = {name: value.to(device).requires_grad_() for name, value in fresh.items()}
    cameras = make([0.0] * runs, 30.0, 2.8, 40.0)
    seconds = []
    for _ in range(rounds + 1):  # the first compiles
        started = time.perf_counter()
        scene.view(params, cameras, flat_RC.to(device)).x_RCHW.sum().backward()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def fused(encoder: str) -> Any:
    """The encoder's module with `query` and `composite`; None where torch does both."""
    name = {"numba": "fused_cpu", "triton": "fused_cuda"}.get(encoder)
    return importlib.import_module(f"harness.scene.{name}") if name else None
