"""Suites beside the runs that came from them, `suites/<sha256[:12]>.json` of a folder of runs; which runs
share a pool, and the words that choose them."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from harness.config import UserError
from harness.records.files import make_folder, read_json, write_json
from harness.records.identity import SuiteRef
from harness.records.reader import names, problem

SUITES = "suites"
NONE = "none"  # suite=none: runs of no suite
MOST_TOLD = 5


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


def known(root: Path) -> list[tuple[str, str]]:
    """Name and hash of every suite that is kept beside the runs and can be read."""
    found = []
    for name in names(root, SUITES):
        with suppress(UserError, OSError):
            kept = read(root, name.removesuffix(".json"))
            found.append((kept["name"], kept["sha256"]))
    return found


def word(name: str, sha256: str, known: Iterable[tuple[str, str]]) -> str:
    """`suite=…`, which chooses the runs of one suite among those known by name and hash: by its name, or by
    its hash where that is another's, too."""
    shared = name == NONE or any(each == name and sha != sha256 for each, sha in known)
    return shlex.quote(f"suite={sha256[:12] if shared else name}")


def beside_others(root: Path, name: str, sha256: str) -> str:
    """` suite=…` where suites of others are kept beside the runs, too; "" where this is the only one."""
    kept = known(root)
    return f" {word(name, sha256, kept)}" if set(kept) - {(name, sha256)} else ""


def check_one_pool(of: Mapping[str, SuiteRef | None], allow_mixed: bool = False) -> None:
    """Raises UserError where runs, by id, have no pool in common, with the words that choose some of them."""
    known = {(suite.name, suite.sha256) for suite in of.values() if suite}
    count = Counter((suite.name, suite.sha256) for suite in of.values() if suite)
    words = [
        f"{word(*each, known)} ({n} {'run' if n == 1 else 'runs'})"
        for each, n in count.most_common(MOST_TOLD)
    ]
    words += ["…"] * (len(count) > MOST_TOLD)
    outside = [run for run, suite in of.items() if suite is None]
    if outside:
        choose = f"; choose others: {', '.join(words)}" if words else ""
        raise UserError(f"{outside[0]} belongs to no suite, so there is no pool to retrieve from{choose}")
    if len({sha256 for _, sha256 in known}) > 1 and not allow_mixed:
        raise UserError(
            f"runs of different suites have different pools: choose one of {', '.join(words)}, or pass "
            "--allow-mixed"
        )
