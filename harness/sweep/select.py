"""Runs by words: `method=tp_sds state=failed seed=0-2 prompt=bus`, or a part of their ids."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from harness.config import UserError, nearest
from harness.records.folder import Look, RunFolder, Status, run_folders
from harness.sweep.grid import seed_ranges
from harness.text import short

LONGEST_WORD = 1000  # letters; patterns of many * take long to try

Test = Callable[[RunFolder, Look], bool]
STATES = get_args(Status)


def select(root: Path, words: Sequence[str]) -> list[RunFolder]:
    """The runs under `root` that fit every word; all of them for no word.

    `method=` takes a method, with its variant or without; `seed=` as `--seeds`; `prompt=` a part of the
    prompt; `state=` new, resume, running, done, failed, cancelled or damaged. A word without `=` is a
    part of the id, or a pattern of it with `*`. A run without a readable spec has no method, seed or prompt.
    Raises UserError for an unknown key or state, and where no run fits.
    """
    tests = [_test(word) for word in words]
    found = []
    for folder in run_folders(root):
        look = folder.look()
        if all(test(folder, look) for test in tests):
            found.append(folder)
    if not found:
        raise UserError(f"no run in {root} fits '{' '.join(words)}'" if words else f"{root} holds no runs")
    return found


def _test(word: str) -> Test:
    if len(word) > LONGEST_WORD:
        raise UserError(f"a filter has at most {LONGEST_WORD} letters, '{short(word, 60)}' has {len(word)}")
    key, equals, value = word.partition("=")
    if not equals:
        return lambda folder, _: word in folder.id or fnmatch.fnmatchcase(folder.id, word)
    if key not in TESTS:
        raise UserError(f"no filter '{key}'{nearest(key, TESTS)}")
    return TESTS[key](value)


def _method(value: str) -> Test:
    return lambda _, look: look.spec is not None and value in (look.spec.method, look.spec.label)


def _seed(value: str) -> Test:
    ranges = seed_ranges(value)
    return lambda _, look: look.spec is not None and any(look.spec.seed in ends for ends in ranges)


def _prompt(value: str) -> Test:
    return lambda _, look: look.spec is not None and value.lower() in look.spec.prompt.lower()


def _state(value: str) -> Test:
    if value not in STATES:
        raise UserError(f"state={value}: no such state{nearest(value, STATES)}")
    return lambda _, look: look.status == value


TESTS: dict[str, Callable[[str], Test]] = {
    "method": _method,
    "seed": _seed,
    "prompt": _prompt,
    "state": _state,
}
