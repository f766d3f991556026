"""One file, one figure, found by being here; `eval.figures.figure` says what it holds."""

from pathlib import Path

from harness.extensions import Seam

SEAM = Seam("figure", Path(__file__).parent, package="eval.figures.kinds", files=True)
