"""The paper's figures from run folders: pdf, png and a manifest each, byte-equal from the same runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.figures import bars, curves, gradients, grids, schedules, spectra
from eval.figures.fonts import boxes, fallbacks
from eval.figures.manifest import image_bytes, manifest
from eval.figures.style import Sheet, style
from eval.runs import Runs
from harness.config import UserError, nearest
from harness.records.files import make_folder, write_bytes


@dataclass(frozen=True)
class Figure:
    """One figure: how it is drawn from runs, and what they must hold."""

    name: str
    summary: str
    function: Callable[..., Sheet]
    needs: str = "runs"  # "": drawn without runs
    metrics: tuple[str, ...] = ()

    def draw(self, runs: Runs | None = None, **options: Any) -> Sheet:
        """A matplotlib figure in the project's style; UserError where the runs lack what it needs."""
        if runs is None and self.needs:
            raise UserError(f"needs {self.needs}")
        with style(_texts(runs)):
            return self.function(runs, **options).arranged()


FIGURES: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        Figure("schedules", "W(t) and t(i) of the schedules (fig. 6)", schedules.schedules, needs=""),
        Figure("r_precision", "R-Precision over steps (fig. 8)", curves.r_precision,
               metrics=("r_precision", "convergence")),
        Figure("r_precision_time", "R-Precision over wall time", curves.r_precision_time,
               "methods timed side by side", ("r_precision", "convergence", "cost")),
        Figure("steps_grid", "renders over steps (fig. 7)", grids.steps_grid),
        Figure("seeds_grid", "renders over seeds (fig. 10)", grids.seeds_grid, "two seeds or more"),
        Figure("methods_grid", "renders of prompts × methods (fig. 11, 12, 14)", grids.methods_grid),
        Figure("gradients", "mean ‖ε̂−ε‖ over step × t (fig. 3)", gradients.gradients, "stored checkpoints",
               ("gradients",)),
        Figure("spectra", "radial spectra against real images (fig. 4)", spectra.spectra,
               "runs and real images of their prompts", ("spectrum",)),
        Figure("diversity", "spread over seeds", bars.diversity, "two seeds or more", ("diversity",)),
        Figure("cost", "wall time and denoiser evaluations per step, run and method", bars.cost,
               "methods timed side by side", ("cost",)),
    )
}  # fmt: skip


def write_figures(
    runs: Runs | None,
    names: Sequence[str],
    out: Path,
    command: str,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Draw the figures named, or all that the runs support; the paths of pdf, png and json, in that order.

    A figure that is not named and lacks its data is left out, and `say` is told why in one line. Raises
    UserError for an unknown name and for a named figure that lacks its data.
    """
    for name in names:
        if name not in FIGURES:
            raise UserError(f"no figure '{name}'{nearest(name, FIGURES)}")
    make_folder(out)
    written: list[Path] = []
    for name in dict.fromkeys(names or FIGURES):
        try:
            sheet = FIGURES[name].draw(runs)
        except UserError as error:
            line = f"no figure {name}: {error}"
            if names:
                raise UserError(line) from error
            say(line)
        else:
            written += _write(FIGURES[name], sheet, runs, out, command)
    missing = fallbacks(_texts(runs))[1]
    if missing and written:
        say(boxes(missing))
    return written


def _texts(runs: Runs | None) -> list[str]:
    """What of others a figure may show."""
    if runs is None:
        return []
    reasons = [run.failure or "" for run in runs]
    return [*runs.prompts, *runs.methods, *runs.stamp.priors, *reasons]


def _write(figure: Figure, sheet: Sheet, runs: Runs | None, out: Path, command: str) -> list[Path]:
    with style(_texts(runs)):
        images = image_bytes(sheet)
    about = manifest(figure.name, figure.summary, sheet, images, runs, figure.metrics, command)
    text = json.dumps(about, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    written = []
    for suffix, data in (images | {"json": text.encode()}).items():
        written.append(out / f"{figure.name}.{suffix}")
        write_bytes(written[-1], data)
    return written
