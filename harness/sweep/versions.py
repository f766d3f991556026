"""Runs that were made with another version of their method's code than there is now: kept, or made anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from harness.config import UserError
from harness.distill import method
from harness.records.folder import Look, RunFolder
from harness.records.identity import RunSpec
from harness.scene import kind
from harness.sweep.gc import put_aside
from harness.sweep.plan import Plan, changed_code

Code = Callable[[RunSpec], Mapping[str, str]]

Others = Literal["refuse", "keep", "redo"]  # what becomes of them
FAILED = "failed, and {were}"


def code_now(methods_dirs: Sequence[Path | str]) -> Code:
    """Which code a run would be made with, as env.json has it, that of this package aside."""

    @cache
    def of(name: str, scene: str) -> Mapping[str, str]:
        return method.code_of(name, methods_dirs) | kind.code_of(scene)

    return lambda spec: of(spec.method, spec.config.scene.kind)


def settle(root: Path, plan: Plan, others: Others, say: Callable[[str], None] | None = print) -> bool:
    """Do what was asked with the plan's `outdated` runs; true where the plan has to be made anew.

    Failed ones that are tried again are made anew, whatever was asked: their code was mended. Without `say`
    nothing is written. Raises UserError where nothing was asked for others, and for runs that are to be made
    anew while somebody advances them.
    """
    mended = [run for run in plan.outdated if run in plan.retried]
    runs = [run for run in plan.outdated if run not in mended]
    if runs and others == "refuse":
        told = _told(plan.total, runs, plan.outdated)
        failed = "--retry-failed makes the failed ones anew, " if set(runs) & set(plan.failed) else ""
        raise UserError(
            f"{told} than there is now: --keep leaves them as rows of their own, {failed}--redo makes "
            "all of them anew, and a copy of the folder under another name stands beside them"
        )
    if runs and others == "keep" and say:
        say(f"{_told(plan.total, runs, plan.outdated)}: kept, in rows of their own")
    anew = (("--redo", runs if others == "redo" else []), ("--retry-failed", mended))
    for option, asked in anew:
        busy = next((run for run in asked if run in {*plan.running, *plan.queued}), None)
        if busy:
            raise UserError(f"{option}: {busy} is being advanced; `harness cancel` takes it out")
    if not say:
        return False
    for _, asked in anew:
        if asked:
            told = _told(plan.total, asked, plan.outdated, FAILED if asked is mended else "{were}")
            say(f"{told}: made anew; what there was lies in {put_aside(root, asked)}")
    return any(asked for _, asked in anew)


def retry(root: Path, folders: Sequence[RunFolder], code: Code, say: Callable[[str], None] = print) -> int:
    """Let the failed and cancelled ones of these runs be tried again; how many.

    Failed ones whose code has changed since are made anew, as `settle` does it. Left as they are, and told:
    cancelled ones of other code, for which the sweep asks, and those whose code is not found.
    """
    looks = {folder.id: (folder, folder.look()) for folder in folders}
    looks = {run: found for run, found in looks.items() if found[1].status in ("failed", "cancelled")}
    outdated: dict[str, list[str]] = {}
    lost: dict[str, list[str]] = {}
    for run, (_, look) in looks.items():
        names, missing = _compared(look, code)
        if missing:
            lost[run] = missing
        elif names:
            outdated[run] = names
    anew = [run for run in outdated if looks[run][1].status == "failed"]
    kept = [run for run in outdated if looks[run][1].status == "cancelled"]
    if anew:
        told = _told(len(folders), anew, outdated, FAILED)
        say(f"{told}: made anew; what there was lies in {put_aside(root, anew)}")
    for run in anew:
        spec = looks[run][1].spec
        assert spec is not None  # its code was compared
        RunFolder.create(root, spec)
    if kept:
        told = _told(len(folders), kept, outdated, "{were} cancelled, and")
        say(f"{told}: left as before; the same sweep command takes them up with --keep or --redo")
    if lost:
        names = _and(sorted({name for missing in lost.values() for name in missing}))
        option = "--scenes-dir" if names.startswith("scene ") else "--methods-dir"
        say(f"{_many(len(folders), list(lost))} left as before: {option} names no folder of {names}")
    again = [folder for run, (folder, _) in looks.items() if run not in {*outdated, *lost}]
    for folder in again:
        folder.forget_failure()
        folder.uncancel()
    return len(again) + len(anew)


def _compared(look: Look, code: Code) -> tuple[list[str], list[str]]:
    """The names of a run's code that is another now, and of that which is not found."""
    if look.spec is None or not look.code:
        return [], []
    try:
        now = code(look.spec)
    except UserError:  # its kind of scene
        now = {name: look.code[name] for name in look.code if not name.startswith("scene ")}
    return changed_code(look.code, now), sorted(look.code.keys() - now.keys())


def _told(
    total: int, runs: Sequence[str], outdated: Mapping[str, Sequence[str]], state: str = "{were}"
) -> str:
    """Which runs were made with other code, and of what; `state`: what became of them beside."""
    parts = _and(sorted({part for run in runs for part in outdated[run]}))
    state = state.format(were="were" if len(runs) > 1 else "was")
    return f"{_many(total, runs)} {state} made with other code of {parts}"


def _many(total: int, runs: Sequence[str]) -> str:
    return f"{f'{len(runs)} of {total} runs' if total > 1 else 'the run'} (such as {runs[0]})"


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
