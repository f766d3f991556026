"""Where a run was made: enough to explain a number that another machine does not reproduce."""

from __future__ import annotations

import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.home import PARTS
from harness.records.lease import slurm_job
from harness.threads import cores

PACKAGES = (
    "dreamtime-harness", "torch", "torchvision", "diffusers", "transformers", "open-clip-torch", "numpy",
    "numba", "safetensors", "wandb", "pydantic", "pandas", "matplotlib", "pillow",
)  # fmt: skip


CODE = ("harness", "methods", "eval", "slurm")  # folders of a checkout


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@cache
def code_version() -> dict[str, Any]:
    """{commit, dirty} of the checkout this package is imported from; {} outside a git checkout. Files of
    code that git does not know count, other new files do not."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {}
    new = _git("status", "--porcelain", "--", *(f":/{folder}" for folder in CODE))
    return {"commit": commit, "dirty": bool(new or _git("status", "--porcelain", "-uno"))}


def own_code() -> dict[str, str]:
    """The variables with which a Python process imports this very package, and nothing from the folder that
    it is started in: PYTHONPATH loses its empty entries, which Python takes for that folder."""
    entries = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join([str(PARTS), *entries])}


def own_code_in_shell() -> list[str]:
    """`own_code` as lines of a shell script, which take PYTHONPATH as it is there."""
    return [
        "export PYTHONSAFEPATH=1",
        f"export PYTHONPATH={shlex.quote(str(PARTS))}:"
        + """$(printf %s "$PYTHONPATH" | tr -s : | sed 's/^://')""",
        "export PYTHONPATH=${PYTHONPATH%:}",
    ]


@cache
def packages() -> dict[str, str]:
    """Versions of the packages a result depends on."""
    found = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine(env: Mapping[str, Any]) -> str:
    """What did the computing, of an env.json: the GPU's name, or the processor's; "" where it is not said."""
    return str((env.get("gpu") or {}).get("name") or env.get("processor") or "")


def snapshot(device: str = "cpu", **more: Any) -> dict[str, Any]:
    """What env.json holds: code, packages, machine, device, determinism flags; `more` is added as it is."""
    import torch

    env: dict[str, Any] = {
        "git": code_version(),
        "python": sys.version.split()[0],
        "packages": packages(),
        "host": socket.gethostname(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "device": device,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "slurm": slurm_job() or None,
    }
    if torch.device(device).type == "cuda":
        properties = torch.cuda.get_device_properties(torch.device(device))
        env["gpu"] = {
            "name": properties.name,
            "memory": properties.total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "tf32": torch.backends.cuda.matmul.allow_tf32,
        }
    return env | more
