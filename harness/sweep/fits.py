"""How many runs fit into a device's memory together: what `--pack auto` found, kept for the next sweep."""

from __future__ import annotations

import hashlib
import os
import subprocess
from functools import cache

from harness.records.identity import RunSpec, canonical_json
from harness.records.memory import Memory

AUTO_PACK = {"cpu": 16, "cuda": 32}
FOUND = Memory[int]("packs.json", int, days=7)  # what filled a device may have been somebody else


@cache
def device_name(device: str) -> str:
    """What kind of device a slot has: the GPU's name, or the CPU's memory."""
    if device == "cpu":
        return f"cpu {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // 2**30} GiB"
    ask = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        ask.append(f"--id={visible.split(',')[0].strip()}")
    try:
        said = subprocess.run(ask, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return device
    return said.splitlines()[0] if said else device


def key(spec: RunSpec, device: str) -> str:
    """What the memory of a run depends on: device, method, prior and scene."""
    parts = [part.model_dump(mode="json") for part in (spec.config.guidance, spec.config.scene)]
    asked = canonical_json([spec.method, spec.alike, *parts])
    return f"{device_name(device)} · {hashlib.sha256(asked.encode()).hexdigest()[:12]}"


def remembered(spec: RunSpec, device: str) -> int:
    """The most runs in a pack: what a sweep found to fit in the last days, or the device's default."""
    return min(FOUND.recall(key(spec, device)) or AUTO_PACK[device], AUTO_PACK[device])


def remember(spec: RunSpec, device: str, runs: int) -> None:
    """So many runs are the most to be tried here."""
    FOUND.keep(key(spec, device), runs)
