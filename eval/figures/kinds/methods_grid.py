"""Renders of prompts × methods (fig. 11, 12, 14)."""

from eval.figures.figure import Figure
from eval.figures.grids import methods_grid


class MethodsGrid(Figure):
    plot = staticmethod(methods_grid)
