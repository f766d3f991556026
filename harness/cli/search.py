"""`harness search`: settings that do better, found on some prompts and proved on others."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Exit, Option

from harness.cli.app import (
    Device,
    DryRun,
    Encoder,
    Wandb,
    app,
    complete_profiles,
    complete_searches,
    into,
)
from harness.config import UserError
from harness.console import busy

if TYPE_CHECKING:
    from harness.config import Execution
    from harness.records.identity import RunSpec
    from harness.sweep.grid import Suite


@app.command(epilog="Example: harness search schedule --size toy --hours 2")
def search(
    name: Annotated[
        str,
        Argument(help="A search of experiments/searches/, or a file.toml.", autocompletion=complete_searches),
    ] = "",
    size: Annotated[Literal["toy", "paper"], Option(help="Which of its sizes.")] = "toy",
    test: Annotated[str, Option(help="Run a test of the winner, which must be fixed by now; or all.")] = "",
    hours: Annotated[
        float | None, Option(min=0, help="Begin no generation once those before it took so long.")
    ] = None,
    runs: Annotated[Path, into("Folders of runs, one per search and test, are in here.")] = Path("runs"),
    out: Annotated[Path, into("Tables and figures go here, a folder per search.")] = Path("results"),
    device: Device = "auto",
    encoder: Encoder = "auto",
    wandb: Wandb = None,
    slurm: Annotated[
        str | None,
        Option(
            metavar="[PROFILE]",
            help="Submit what is missing of this generation and return; the same command then goes on.",
            autocompletion=complete_profiles,
        ),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Look for better settings on some prompts, fix the winner on others, test it on a third part."""
    from harness.search import definition

    if not name:
        for each in definition.names():
            print(f"{each}: {definition.load(each).title}")
        return
    asked = definition.load(name)
    sized = asked.size(size)
    with busy("loading libraries"):
        from harness.search.conduct import Conduct

    conduct = Conduct(Path(name).stem, asked, size, runs, out, device, encoder, wandb, hours)
    if slurm is not None:
        conduct = replace(conduct, advance=_on(slurm))
    if not test:
        raise Exit(conduct.find(dry_run))
    if test == "all" and not sized.tests:
        raise UserError(f"{name} has no tests")
    for each in [each.name for each in sized.tests] if test == "all" else [test]:
        if code := conduct.prove(each, dry_run):
            raise Exit(code)


def _on(name: str):
    """What submits runs to a Slurm site."""
    from slurm.profile import load
    from slurm.submit import Submission, submit

    profile = load(name)

    def advance(root: Path, suite: Suite, specs: Sequence[RunSpec], execution: Execution) -> int:
        command = shlex.join(["harness", *sys.argv[1:]])
        packed = submit(Submission(root, suite, specs, execution, name, profile, command, others="keep"))
        if packed.arrays:
            print(f"submitted to {name}; harness status {root} --watch")
        return 0

    return advance
