"""One file, one metric, found by being here; `eval.metric` says what it holds."""

from pathlib import Path

from harness.extensions import Seam

SEAM = Seam("metric", Path(__file__).parent, package="eval.metrics", files=True)
