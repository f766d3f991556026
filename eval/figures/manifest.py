"""A figure's bytes, and the manifest that says where they come from."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from typing import Any

from matplotlib.figure import Figure

from eval.figures.style import Sheet
from eval.runs import Runs
from harness.records.environment import packages
from harness.records.stamp import TOY

# What would change from one writing to the next, or from one version of matplotlib to another, is left out.
METADATA = {"pdf": {"CreationDate": None, "Creator": None, "Producer": None}, "png": {"Software": None}}


def image_bytes(figure: Figure) -> dict[str, bytes]:
    """Suffix → the figure as pdf and as png; equal figures give equal bytes."""
    found = {}
    for suffix, metadata in METADATA.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, metadata=metadata)
        found[suffix] = buffer.getvalue()
    return found


def manifest(
    name: str,
    summary: str,
    sheet: Sheet,
    images: Mapping[str, bytes],
    runs: Runs | None,
    metrics: Iterable[str],
    command: str,
) -> dict[str, Any]:
    """What a figure shows, the runs, command, metric versions and packages that made it, and its hashes."""
    stamp = runs.stamp if runs and sheet.run_ids else None
    versions = stamp.versions if stamp else {}
    return {
        "figure": name,
        "summary": summary,
        "caption": sheet.caption,
        "command": command,
        "toy": sheet.mark == TOY,
        "mark": sheet.mark,
        "stamp": stamp.line() if stamp else None,
        "clip": {"tag": stamp.clip, "sha256": stamp.weights} if stamp else None,
        "metrics": {metric: versions[metric] for metric in metrics if metric in versions},
        "runs": sheet.run_ids,
        "packages": packages(),
        "sha256": {f"{name}.{suffix}": hashlib.sha256(data).hexdigest() for suffix, data in images.items()},
    }
