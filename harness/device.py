"""The device that runs are advanced on. Importing it does not load torch."""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config import UserError, nearest

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# In a process of its own: a driver that was asked once keeps what it then saw.
_COUNT = """
import ctypes
cuda, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
print(count.value)
"""


def gpus() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES takes them; [] where there are none.

    The driver is asked, since the variable may name what is not here.
    """
    if not _torch_knows_cuda():
        return []
    try:
        asked = subprocess.run(
            [sys.executable, "-I", "-c", _COUNT], capture_output=True, text=True, timeout=60
        )
        count = int(asked.stdout or 0) if asked.returncode == 0 else 0
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(count)) if visible is None else visible.split(",")
    return list(names)[:count]


def _torch_knows_cuda() -> bool:
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return False
    version = Path(found.origin).with_name("version.py")
    lines = version.read_text(encoding="utf-8").splitlines() if version.is_file() else []
    return not any(line.startswith("cuda") and line.endswith("= None") for line in lines)


@cache
def say_that_gpus_are_hidden() -> None:
    """Say once on stderr that the CPU is taken although CUDA_VISIBLE_DEVICES is set."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        print(f"CUDA_VISIBLE_DEVICES={visible} shows no GPU here: the CPU is taken", file=sys.stderr)


def pick_device(requested: str) -> str:
    """The device for "auto": the GPU where there is one. UserError for a device that is not here."""
    import torch

    if requested == "auto":
        if torch.cuda.is_available():
            return "cuda"
        say_that_gpus_are_hidden()
        return "cpu"
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
    import torch

    fix_workspaces()
    torch.use_deterministic_algorithms(True)


def has_c_compiler() -> bool:
    """Whether Triton, and with it torch.compile on a GPU, finds what it builds its launchers with."""
    return any(shutil.which(name) for name in (os.environ.get("CC", "gcc"), "gcc", "clang"))


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 itself; one that does not takes twenty times float32's time."""
    import torch

    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def upload(value: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on the device, without waiting for what the device has still to do."""
    return value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else value.to(device)


def peak_memory_mb(device: torch.device | str) -> float:
    """Most memory held so far: the GPU's tensors, or this whole process on a CPU."""
    import torch

    if torch.device(device).type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)
