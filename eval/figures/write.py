"""The paper's figures from run folders: pdf, png and a manifest each, byte-equal from the same runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from eval.figures.figure import Figure, figures, texts
from eval.figures.fonts import boxes, fallbacks
from eval.figures.manifest import image_bytes, manifest
from eval.figures.style import Choices, Sheet, chosen, style
from eval.runs import Runs
from harness.config import UserError, nearest
from harness.console import busy
from harness.records.files import make_folder, write_bytes

FIGURES = figures()  # those of this package


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
        return _drawn(runs, names, out, command, say, dirs)


def _drawn(
    runs: Runs | None,
    names: Sequence[str],
    out: Path,
    command: str,
    say: Callable[[str], None],
    dirs: Sequence[Path],
) -> list[Path]:
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
            written += _write(known[name], sheet, runs, out, command)
    missing = fallbacks(texts(runs))[1]
    if missing and written:
        say(boxes(missing))
    return written


def _write(figure: Figure, sheet: Sheet, runs: Runs | None, out: Path, command: str) -> list[Path]:
    with style(texts(runs)):
        images = image_bytes(sheet)
    about = manifest(figure.name, figure.summary, sheet, images, runs, figure.metrics, command)
    text = json.dumps(about, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    written = []
    for suffix, data in (images | {"json": text.encode()}).items():
        written.append(out / f"{figure.name}.{suffix}")
        write_bytes(written[-1], data)
    return written
