"""Where the parts of this project lie that are no modules of `harness`: beside it in a checkout, in it when
installed, so that an installation adds one name to the environment."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
_INSTALLED = HERE / "_parts"
PARTS = _INSTALLED if _INSTALLED.is_dir() else HERE.parent  # eval, methods, slurm, experiments, prompts
WEIGHTS = HERE / "weights"


def parts_first() -> None:
    """Let `eval`, `methods` and `slurm` be ours in this process, whatever of these names lies in the working
    directory or on PYTHONPATH. Every entry point that may import them begins with it."""
    if str(PARTS) not in sys.path[:1]:
        sys.path.insert(0, str(PARTS))
