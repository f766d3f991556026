"""W(t) and t(i) of the schedules (fig. 6)."""

from eval.figures.figure import Figure
from eval.figures.schedules import schedules


class Schedules(Figure):
    needs = ""
    plot = staticmethod(schedules)
