"""Renders over steps (fig. 7)."""

from eval.figures.figure import Figure
from eval.figures.grids import steps_grid


class StepsGrid(Figure):
    plot = staticmethod(steps_grid)
