"""Radial spectra against real images (fig. 4)."""

from eval.figures.figure import Figure
from eval.figures.spectra import spectra


class Spectra(Figure):
    needs = "runs and real images of their prompts"
    metrics = ("spectrum",)
    plot = staticmethod(spectra)
