"""Image features of stored views, once per run and scorer: every CLIP metric is a function of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from eval.scorers.clip import Clip
from eval.sources.load import RunRecord
from harness.config import first_line
from harness.records.files import write_cache
from harness.records.reader import is_file

VERSION = 1  # raise it when the features of a view can change: caches are keyed by it

# Unit features [V, D] at every step with readable views, and the reason at every step without.
ViewFeatures = tuple[dict[int, np.ndarray], dict[int, str]]


def cache_key(clip: Clip) -> str:
    """12 hex digits over all that features depend on but the views."""
    parts = f"features/{VERSION}/{clip.tag}/{clip.weights_hash}"
    return hashlib.sha256(parts.encode()).hexdigest()[:12]


def view_features(run: RunRecord, clip: Clip) -> ViewFeatures:
    """Unit features [V, D] at every step with readable views, and the reason at every step without.

    Cached in `<run>/eval/features-<key>.safetensors`; an entry counts only for the view file it came from.
    """
    cache = run.folder.eval / f"features-{cache_key(clip)}.safetensors"
    return file_features(cache, run.view_steps, run.folder.view_bytes, run.views, clip)


def file_features(
    cache: Path,
    steps: Iterable[int],
    content: Callable[[int], bytes],
    read: Callable[[int], np.ndarray],
    clip: Clip,
) -> ViewFeatures:
    """Unit features [V, D] of the uint8 images that `read` gives for each step, through a cache file.

    An entry of the cache counts only for the very `content` that it came from.
    """
    cached = _read(cache)
    found: dict[int, np.ndarray] = {}
    digests: dict[int, str] = {}
    problems: dict[int, str] = {}
    fresh = False
    for step in steps:
        try:
            digests[step] = hashlib.sha256(content(step)).hexdigest()
            if step in cached and cached[step][0] == digests[step]:
                found[step] = cached[step][1]
            else:
                # Step by step: a number's bits may depend on how many others are computed with it.
                found[step] = clip.embed_images(read(step)).numpy()
                fresh = True
        except Exception as error:  # whatever a damaged picture makes the decoder raise is that step's alone
            problems[step] = f"views of step {step}: {first_line(error)}"
    if fresh:
        _write(cache, found, digests)
    return found, problems


def _read(path: Path) -> dict[int, tuple[str, np.ndarray]]:
    if not is_file(path.parent, path.name):
        return {}
    try:
        with safe_open(path, framework="numpy") as file:
            digests = file.metadata() or {}
            return {int(name): (digests[name], file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError):
        return {}  # a cache that cannot be read is a cache that is not there


def _write(path: Path, features: dict[int, np.ndarray], digests: dict[int, str]) -> None:
    tensors = {str(step): np.ascontiguousarray(rows_VD) for step, rows_VD in features.items()}
    write_cache(path, save(tensors, metadata={str(step): digests[step] for step in features}))
