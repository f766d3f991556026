"""R-Precision over steps (fig. 8)."""

from eval.figures.curves import r_precision
from eval.figures.figure import Figure


class RPrecision(Figure):
    metrics = ("r_precision", "convergence")
    plot = staticmethod(r_precision)
