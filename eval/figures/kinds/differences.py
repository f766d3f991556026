"""R-Precision at the last step, and less the baseline's."""

from eval.figures.bars import differences
from eval.figures.figure import Figure


class Differences(Figure):
    needs = "uniform_sds and another method"
    metrics = ("r_precision",)
    plot = staticmethod(differences)
