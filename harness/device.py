"""The device that runs are advanced on."""

from __future__ import annotations

import os
import resource
import shutil
import sys

import torch
from torch import Tensor

from harness.config import UserError, nearest


def pick_device(requested: str) -> str:
    """The device for "auto": the GPU where there is one. UserError for a device that is not here."""
    if requested == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = requested.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise UserError(f"no device '{requested}'{nearest(requested, ('auto', 'cpu', 'cuda'))}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {requested}: there is no CUDA device here; choose cpu or auto")
    return requested


def fix_workspaces() -> None:
    """Let matrix products on a GPU be deterministic; to be called before the first of them."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def be_deterministic() -> None:
    """From now on this process gives the same bits for the same calls, on a GPU, too."""
    fix_workspaces()
    torch.use_deterministic_algorithms(True)


def has_c_compiler() -> bool:
    """Whether Triton, and with it torch.compile on a GPU, finds what it builds its launchers with."""
    return any(shutil.which(name) for name in (os.environ.get("CC", "gcc"), "gcc", "clang"))


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 itself; one that does not takes twenty times float32's time."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def upload(value: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on the device, without waiting for what the device has still to do."""
    return value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else value.to(device)


def peak_memory_mb(device: torch.device | str) -> float:
    """Most memory held so far: the GPU's tensors, or this whole process on a CPU."""
    if torch.device(device).type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)
