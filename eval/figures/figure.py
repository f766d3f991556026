"""What a figure is, and how figures are found.

A figure is a file `eval/figures/kinds/NAME.py`, or of a `--figures-dir`, with exactly one subclass of
`Figure`; the first line of its docstring is its summary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from eval.figures.kinds import SEAM
from eval.figures.style import Sheet, style
from harness.config import UserError

if TYPE_CHECKING:
    from eval.runs import Runs


class Figure:
    """How it is drawn from runs, what they must hold ("": nothing), and the metrics that it shows."""

    needs: ClassVar[str] = "runs"
    metrics: ClassVar[tuple[str, ...]] = ()
    is_usual: ClassVar[bool] = True  # most runs have what it needs; else it is left out without a word
    plot: Callable[..., Sheet]  # of the runs; called within the project's style

    def __init__(self, name: str, summary: str):
        self.name, self.summary = name, summary

    def draw(self, runs: Runs | None = None) -> Sheet:
        """A matplotlib figure in the project's style; UserError where the runs lack what it needs."""
        if runs is None and self.needs:
            raise UserError(f"needs {self.needs}")
        with style(texts(runs)):
            return self.plot(runs).arranged()


def texts(runs: Runs | None) -> list[str]:
    """What of others a figure may show."""
    if runs is None:
        return []
    reasons = [run.failure or "" for run in runs]
    return [*runs.prompts, *runs.methods, *runs.stamp.priors, *reasons]


def figures(dirs: Sequence[Path] = ()) -> dict[str, Figure]:
    """Every figure there is, by name; UserError for a file that holds none."""
    found = SEAM.discover(dirs)
    return {
        name: SEAM.load(name, Figure, dirs)(name, each.summary.rstrip(".")) for name, each in found.items()
    }
