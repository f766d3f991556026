"""What everything made with a prior is stamped, so that no result is mistaken for a real prior's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.records.files import read_json

TOY, RANDOM = "toy", "RANDOM WEIGHTS"
_SHOWN = {"toy": TOY, "random": RANDOM, "": ""}


def mark(prior: Mapping[str, Any], asked: str) -> str:
    """TOY, RANDOM or "" for a real prior's: from env.json's `prior`, and from the prior asked for where a run
    never loaded it or was made before there were stamps."""
    if "stamp" in prior:
        return _SHOWN.get(prior["stamp"], str(prior["stamp"]))
    if not prior and (read_json(Path(asked, "card.json")) or {}).get("random"):
        return RANDOM
    return TOY if prior.get("is_toy", Path(asked).name.startswith("toy-")) else ""
