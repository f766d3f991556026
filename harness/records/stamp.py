"""What everything made with a prior is stamped, so that no result is mistaken for a real prior's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.config import UserError
from harness.records.files import read_json

TOY, RANDOM = "toy", "RANDOM WEIGHTS"


def mark(prior: Mapping[str, Any], asked: str) -> str:
    """TOY, RANDOM or "" for a real prior's: from env.json's `prior`, and from the prior asked for where a run
    never loaded it or was made before there were stamps."""
    if "stamp" in prior:
        return RANDOM if prior["stamp"] == "random" else str(prior["stamp"])
    if not prior and (read_json(Path(asked, "card.json")) or {}).get("random"):
        return RANDOM
    return TOY if prior.get("is_toy", Path(asked).name.startswith("toy-")) else ""


def prior_hash(prior: Mapping[str, Any]) -> str:
    """What env.json's `prior` knows the prior by: all its files, or its weights alone in older records; "" in
    none."""
    return prior.get("content_hash") or prior.get("weights_hash", "")


def same_prior(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records are of one prior, by the most that both tell."""
    for key in ("content_hash", "weights_hash"):
        if one.get(key) and other.get(key):
            return one[key] == other[key]
    return True


def must_be(record: Mapping[str, Any], asked: str) -> None:
    """UserError where the prior that is here is not the one that runs were made with, by its `prior_hash`."""
    if asked and asked not in (record.get("content_hash"), record.get("weights_hash")):
        raise UserError(
            f"the runs were made with other files of {record.get('tag')} ({asked[:12]}) than are here "
            f"({prior_hash(record)[:12]})"
        )


def changed(path: Path, prior: str, then: str, now: str) -> UserError:
    """The error of a run that is to go on with another content of its prior than it was begun with."""
    return UserError(
        f"{path} was begun with other files of the prior {prior} ({then[:12]}) than there are now "
        f"({now[:12]}): put those back, or name another --out"
    )
