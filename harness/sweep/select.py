"""Runs by words: `method=tp_sds state=failed seed=0-2 prompt=bus`, or a part of their ids."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from harness.config import Config, UserError, nearest, override_keys, parse_value
from harness.distill.method import in_full
from harness.records.folder import Look, RunFolder, Status, run_folders
from harness.records.rows import setting_of, value_shown
from harness.records.schema import SPEC
from harness.records.suites import NONE, check_one_pool
from harness.scene.kind import annotation_of
from harness.sweep.grid import seed_ranges
from harness.text import short

LONGEST_WORD = 1000  # letters; patterns of many * take long to try

Test = Callable[[RunFolder, Look], bool]
STATES = get_args(Status)


def select(root: Path, words: Sequence[str]) -> list[RunFolder]:
    """The runs under `root` that fit every word; all of them for no word.

    `method=` takes a method, with its variant or without; `seed=` as `--seeds`; `prompt=` a part of the
    prompt; `suite=` its suite's name or hash, "prompts" for those of `--prompt`, none for runs of no suite;
    `state=` new, resume, running, done, failed, cancelled or damaged; a
    setting's key, such as guidance.cfg_scale or cfg_scale alone, its value. A word without `=` is a part of
    the id, or a pattern of it with `*`. A run without a readable spec fits its id and its state alone.
    Raises UserError for an unknown key or state, and where no run fits.
    """
    tests = [_test(word) for word in words]
    found, looks = [], []
    for folder in run_folders(root):
        look = folder.look()
        looks.append(look)
        if all(test(folder, look) for test in tests):
            found.append(folder)
    if not found and not words:
        raise UserError(f"{root} holds no runs")
    if not found:
        meant = next(filter(None, (_meant(word, looks) for word in words)), "")
        raise UserError(f"no run in {root} fits '{' '.join(words)}'{meant}")
    return found


def _meant(word: str, looks: Sequence[Look]) -> str:
    """The nearest method or suite of the runs there are, where a word names none of these."""
    key, _, value = word.partition("=")
    specs = [look.spec for look in looks if look.spec]
    if key == "method":
        value = in_full(value)
        known = {name for spec in specs for name in (spec.method, spec.label)}
    elif key == "suite":
        known = {spec.suite.name for spec in specs if spec.suite}
        known |= {value for spec in specs if spec.suite and spec.suite.sha256.startswith(value)}
    else:
        return ""
    return "" if value in known else nearest(value, known)


def find_run(words: Sequence[str], root: Path) -> RunFolder:
    """The one run that its path names, or that fits every word: see `select`; raises UserError."""
    path = Path(words[0]) if len(words) == 1 else None
    if path and (path / SPEC).exists():
        return RunFolder(path)
    if path and path.parent != Path("."):
        root, words = path.parent, [path.name]
    try:
        found = select(root, words)
    except UserError as error:
        ids = [folder.id for folder in run_folders(root)] if len(words) == 1 and "=" not in words[0] else []
        raise UserError(f"{error}{nearest(words[0], ids) if 0 < len(ids) < 2000 else ''}") from None
    exact = [folder for folder in found if [folder.id] == list(words)]
    if len(exact or found) == 1:
        return (exact or found)[0]
    some = f"{len(found)} runs, such as {found[0].id} and {found[1].id}"
    raise UserError(f"'{' '.join(words)}' fits {some}: write more of it")


def check_pools(folders: Sequence[RunFolder], allow_mixed: bool = False) -> None:
    """Raises UserError where the ended ones of some runs have no pool of captions in common."""
    looks = {folder.id: folder.look() for folder in folders}
    ended = {run: look.spec for run, look in looks.items() if look.status in ("done", "failed")}
    check_one_pool({run: spec.suite for run, spec in ended.items() if spec}, allow_mixed)


def _test(word: str) -> Test:
    if len(word) > LONGEST_WORD:
        raise UserError(f"a filter has at most {LONGEST_WORD} letters, '{short(word, 60)}' has {len(word)}")
    key, equals, value = word.partition("=")
    if not equals:
        return lambda folder, _: word in folder.id or fnmatch.fnmatchcase(folder.id, word)
    if key in TESTS:
        return TESTS[key](value)
    known = override_keys(Config)
    keys = [each for each in known if key in (each, each.rpartition(".")[2])]
    if not keys and not key.startswith("scene."):
        raise UserError(f"no filter '{key}'{nearest(key, [*TESTS, *(known if '.' in key else ())])}")
    return _setting(keys or [key], value)


def _setting(keys: Sequence[str], value: str) -> Test:
    """A run that has that value of one of these settings; as `--set` takes it, or as tables show it."""

    def test(_: RunFolder, look: Look) -> bool:
        if look.spec is None:
            return False
        found = [setting_of(look.spec.config, key) for key in keys]
        return any(
            value in (value_shown(each), str(each)) or _same(each, parse_value(value, annotation_of(key)))
            for key, each in zip(keys, found, strict=True)
        )

    return test


def _same(value: Any, asked: Any) -> bool:
    asked = tuple(asked) if isinstance(asked, list) else asked
    return isinstance(value, bool) == isinstance(asked, bool) and value == asked


def _suite(value: str) -> Test:
    def test(_: RunFolder, look: Look) -> bool:
        if look.spec is None:
            return False
        suite = look.spec.suite
        if suite is None:
            return value == NONE
        return suite.name == value or suite.sha256.startswith(value)

    return test


def _method(value: str) -> Test:
    value = in_full(value)
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
    "suite": _suite,
    "state": _state,
}
