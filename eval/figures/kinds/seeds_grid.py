"""Renders over seeds (fig. 10)."""

from eval.figures.figure import Figure
from eval.figures.grids import seeds_grid


class SeedsGrid(Figure):
    needs = "two seeds or more"
    plot = staticmethod(seeds_grid)
