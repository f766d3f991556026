"""R-Precision over wall time."""

from eval.figures.curves import r_precision_time
from eval.figures.figure import Figure


class RPrecisionTime(Figure):
    needs = "methods timed side by side"
    metrics = ("r_precision", "convergence", "cost")
    plot = staticmethod(r_precision_time)
