"""R-Precision and diversity against a setting that the sweep spanned."""

from eval.figures.axes import axes
from eval.figures.figure import Figure


class Axes(Figure):
    needs = "a setting that was spanned"
    metrics = ("r_precision", "diversity")
    is_usual = False
    plot = staticmethod(axes)
