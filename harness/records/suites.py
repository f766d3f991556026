"""Suites beside the runs that came from them: `suites/<sha256[:12]>.json` of a folder of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from harness.config import UserError
from harness.records.files import make_folder, read_json, write_json
from harness.records.reader import problem

SUITES = "suites"


class Kept(TypedDict):
    """A suite as its file has it."""

    name: str
    sha256: str
    prompts: list[str]


_FORM = TypeAdapter(Kept)


def path_of(root: Path, sha256: str) -> Path:
    """Where a suite is kept."""
    return root / SUITES / f"{sha256[:12]}.json"


def keep(root: Path, name: str, sha256: str, prompts: Sequence[str]) -> None:
    """Keep a suite beside the runs, unless it is there: evaluation needs the whole pool."""
    path = path_of(root, sha256)
    if not path.exists():
        make_folder(path.parent)
        write_json(path, Kept(name=name, sha256=sha256, prompts=list(prompts)))


def read(root: Path, sha256: str) -> Kept:
    """A suite that is kept; UserError where it is missing or damaged."""
    path = path_of(root, sha256)
    try:
        return _FORM.validate_python(read_json(path))
    except ValidationError as error:
        raise UserError(f"the pool of these runs does not load from {path}: {problem(error)}") from None
