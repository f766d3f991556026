"""The paper's figures from run folders: pdf, png and a manifest each, byte-equal from the same runs."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.figures.figure import Figure, figures, texts
from eval.figures.fonts import boxes, fallbacks
from eval.figures.style import Choices, Sheet, chosen, style
from eval.runs import Runs
from harness.config import UserError, nearest
from harness.console import busy
from harness.records.environment import packages
from harness.records.files import make_folder, write_bytes
from harness.records.stamp import TOY

FIGURES = figures()  # those of this package
# What would change from one writing to the next, or from one version of matplotlib to another, is left out.
METADATA = {"pdf": {"CreationDate": None, "Creator": None, "Producer": None}, "png": {"Software": None}}


def write_figures(
    runs: Runs | None,
    names: Sequence[str],
    out: Path,
    command: str,
    say: Callable[[str], None] = print,
    dirs: Sequence[Path] = (),
    choices: Choices | None = None,
) -> list[Path]:
    """Draw the figures named, or all that the runs support; the paths of pdf, png and json, in that order.
    `dirs`: folders with more figures; `choices`: what is asked of all of them.

    A figure that is not named and lacks its data is left out, and `say` is told why in one line. Raises
    UserError for an unknown name and for a named figure that lacks its data.
    """
    with chosen(choices or Choices()):
        known = figures(dirs) if dirs else FIGURES
        for name in names:
            if name not in known:
                raise UserError(f"no figure '{name}'{nearest(name, known)}")
        make_folder(out)
        written: list[Path] = []
        for name in dict.fromkeys(names or known):
            try:
                with busy(f"figure {name}"):
                    sheet = known[name].draw(runs)
            except UserError as error:
                line = f"no figure {name}: {error}"
                if names:
                    raise UserError(line) from error
                if known[name].is_usual:
                    say(line)
            else:
                with busy(f"writing figure {name}"):
                    written += _write(known[name], sheet, runs, out, command)
        missing = fallbacks(texts(runs))[1]
        if missing and written:
            say(boxes(missing))
        return written


def _write(figure: Figure, sheet: Sheet, runs: Runs | None, out: Path, command: str) -> list[Path]:
    with style(texts(runs)):
        images = image_bytes(sheet)
    about = _manifest(figure, sheet, images, runs, command)
    text = json.dumps(about, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    written = []
    for suffix, data in (images | {"json": text.encode()}).items():
        written.append(out / f"{figure.name}.{suffix}")
        write_bytes(written[-1], data)
    return written


def image_bytes(sheet: Sheet) -> dict[str, bytes]:
    """Suffix → the figure as pdf and as png; equal figures give equal bytes."""
    found = {}
    for suffix, metadata in METADATA.items():
        buffer = io.BytesIO()
        sheet.savefig(buffer, format=suffix, metadata=metadata)
        found[suffix] = buffer.getvalue()
    return found


def _manifest(
    figure: Figure, sheet: Sheet, images: Mapping[str, bytes], runs: Runs | None, command: str
) -> dict[str, Any]:
    """What a figure shows, the runs, command, metric versions and packages that made it, and its hashes."""
    stamp = runs.stamp if runs and sheet.run_ids else None
    versions = stamp.versions if stamp else {}
    return {
        "figure": figure.name,
        "summary": figure.summary,
        "caption": sheet.caption,
        "command": command,
        "toy": sheet.mark == TOY,
        "mark": sheet.mark,
        "stamp": stamp.line() if stamp else None,
        "clip": {"tag": stamp.clip, "sha256": stamp.weights} if stamp else None,
        "metrics": {metric: versions[metric] for metric in figure.metrics if metric in versions},
        "runs": sheet.run_ids,
        "packages": packages(),
        "sha256": {
            f"{figure.name}.{suffix}": hashlib.sha256(data).hexdigest() for suffix, data in images.items()
        },
    }
