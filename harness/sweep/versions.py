"""Runs that were made with another version of their method's code than there is now: kept, or made anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.config import UserError
from harness.distill import method
from harness.records.identity import RunSpec
from harness.scene import kind
from harness.sweep.gc import put_aside

if TYPE_CHECKING:
    from harness.sweep.plan import Plan

Others = Literal["refuse", "keep", "redo"]  # what becomes of them


def code_now(methods_dirs: Sequence[Path | str]) -> Callable[[RunSpec], Mapping[str, str]]:
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
        raise UserError(
            f"{_told(plan, runs)} than there is now: --keep leaves them as rows of their own, --redo makes "
            "them anew, and a copy of the folder under another name stands beside them"
        )
    if runs and others == "keep" and say:
        say(f"{_told(plan, runs)}: kept, in rows of their own")
    anew = (("--redo", runs if others == "redo" else []), ("--retry-failed", mended))
    for option, asked in anew:
        busy = next((run for run in asked if run in {*plan.running, *plan.queued}), None)
        if busy:
            raise UserError(f"{option}: {busy} is being advanced; `harness cancel` takes it out")
    if not say:
        return False
    for _, asked in anew:
        if asked:
            failed = "failed, and " if asked is mended else ""
            trash = put_aside(root, asked)
            say(f"{_told(plan, asked, failed)}: they are made anew, and lie in {trash}")
    return any(asked for _, asked in anew)


def _told(plan: Plan, runs: Sequence[str], failed: str = "") -> str:
    """Which runs were made with other code, and of what."""
    parts = _and(sorted({part for run in runs for part in plan.outdated[run]}))
    many = f"{len(runs)} of {plan.total} runs" if plan.total > 1 else "the run"
    were = "were" if len(runs) > 1 else "was"
    return f"{many} (such as {runs[0]}) {failed}{were} made with other code of {parts}"


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
