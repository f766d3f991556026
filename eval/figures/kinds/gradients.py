"""Mean ‖ε̂−ε‖ over step × t (fig. 3)."""

from eval.figures.figure import Figure
from eval.figures.gradients import gradients


class Gradients(Figure):
    needs = "stored checkpoints"
    metrics = ("gradients",)
    plot = staticmethod(gradients)
