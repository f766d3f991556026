"""Spread over seeds."""

from eval.figures.bars import diversity
from eval.figures.figure import Figure


class Diversity(Figure):
    needs = "two seeds or more"
    metrics = ("diversity",)
    plot = staticmethod(diversity)
