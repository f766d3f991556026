"""Wall time and denoiser evaluations per step, run and method."""

from eval.figures.bars import cost
from eval.figures.figure import Figure


class Cost(Figure):
    needs = "methods timed side by side"
    metrics = ("cost",)
    plot = staticmethod(cost)
