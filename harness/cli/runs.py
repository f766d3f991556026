"""Commands on the runs of a sweep: where they stand, and what becomes of them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Exit, Option, confirm

from harness.cli.app import (
    Filter,
    MethodsDir,
    Runs,
    RunsOption,
    ScenesDir,
    app,
    complete_run,
    expanded,
    expanded_words,
)
from harness.config import UserError
from harness.text import size

if TYPE_CHECKING:
    from harness.console import Console
    from harness.records.folder import RunFolder
    from harness.records.wandb_sync import Outcome
    from harness.sweep.gc import Waste
    from harness.sweep.status import SweepStatus

MIRRORS = {"wandb": "W&B", "trackio": "Trackio"}


@app.command(epilog="Example: harness status runs method=tp_sds --watch")
def status(
    runs: Runs = Path("runs"),
    words: Filter = [],  # noqa: B006
    as_json: Annotated[bool, Option("--json", help="Print JSON.")] = False,
    watch: Annotated[bool, Option("--watch", help="Refresh until nothing is left to wait for.")] = False,
    why: Annotated[
        str, Option(metavar="RUN", help="Why this run stands where it does.", autocompletion=complete_run)
    ] = "",
) -> None:
    """Per method: how many runs are done, running, queued and failed, the rate, time left and cost."""
    from harness.console import Console, say, say_some
    from harness.sweep.select import find_run, select
    from harness.sweep.status import sweep_status
    from slurm import watch as slurm

    if why:
        found = slurm.why(find_run([*why.split(), *words], runs))
        if as_json:
            print(json.dumps(dict(found), indent=2, ensure_ascii=False))
        else:
            say(listed(found))
        return
    only = {folder.id for folder in select(runs, words)} if words else None

    def look() -> SweepStatus:
        return slurm.status(runs, only) if slurm.used_here(runs) else sweep_status(runs, only=only)

    if as_json:
        print(look().as_json())
        return
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 140)  # a pipe has no edge to break lines at
    state = _watched(look, console) if watch else look()
    if not watch:
        console.print(state.view())
    failed = [f"failed at step {each['step']}: {each['run']}: {each['reason']}" for each in state.failures]
    damaged = [f"damaged: {each['run']}: {each['damage']}" for each in state.damages]
    for lines in (failed, damaged):
        say_some(lines, "… and {} more (--json lists them all)")


WATCH_SECONDS = 5.0  # between two looks: one call of squeue, where there is a queue


def _watched(look: Callable[[], SweepStatus], console: Console) -> SweepStatus:
    """Show the status until nothing is left to wait for; the last one. It belongs to nobody: a sweep does not
    notice a terminal that is closed."""
    from rich.live import Live

    on_terminal = sys.stdout.isatty()
    state = look()
    try:
        with Live(state.view(), console=console, auto_refresh=False) as live:
            while state.total.running or state.total.queued or state.total.waiting:
                time.sleep(WATCH_SECONDS)
                if on_terminal and not sys.stdout.isatty():
                    os._exit(0)  # closed, and nohup kept the hang-up away: there is nowhere to say goodbye
                state = look()
                live.update(state.view(time.strftime("%H:%M:%S")), refresh=True)
    except KeyboardInterrupt:
        raise Exit(0) from None
    return state


@app.command(epilog="Example: harness cancel method=tp_sds seed=3")
def cancel(words: Filter = [], runs: RunsOption = Path("runs")) -> None:  # noqa: B006
    """Take runs out of whatever advances them, and end Slurm tasks that then have nothing left to do."""
    from harness.sweep.select import select
    from slurm.watch import cancel as cancel_runs

    folders = select(runs, words)
    came = cancel_runs(runs, [folder.id for folder in folders])
    tasks = f", {len(came['tasks'])} Slurm tasks ended" if came["tasks"] else ""
    print(f"{len(came['runs'])} runs cancelled{tasks}; the same sweep command takes them up again")
    _tell_damaged(folders)


@app.command(epilog="Example: harness retry method=tp_sds")
def retry(
    words: Filter = [],  # noqa: B006
    runs: RunsOption = Path("runs"),
    methods_dir: MethodsDir = [],  # noqa: B006
    scenes_dir: ScenesDir = [],  # noqa: B006
) -> None:
    """Let failed and cancelled runs be tried again, from their last checkpoints; failed ones from the start
    where their method's code has changed."""
    from harness.sweep.select import select
    from harness.sweep.versions import code_now
    from harness.sweep.versions import retry as try_again

    folders = select(runs, words)
    again = try_again(runs, folders, code_now(methods_dir))
    print(f"{again} {'run' if again == 1 else 'runs'} will be tried again by the same sweep command")
    _tell_damaged(folders)


def _tell_damaged(folders: list[RunFolder]) -> None:
    """What was left as it is, of the runs chosen."""
    for folder in folders:
        if damage := folder.damage():
            print(f"damaged, and left as it is: {folder.id}: {damage}")


@app.command(epilog="Example: harness gc runs")
def gc(
    runs: Runs = Path("runs"),
    yes: Annotated[bool, Option("--yes", help="Do it without asking.")] = False,
    purge: Annotated[bool, Option("--purge", help="Delete for good what lies in RUNS/trash.")] = False,
) -> None:
    """List what belongs to no run of a folder, and move it to RUNS/trash on confirmation; runs stay, failed
    ones, too."""
    from harness.sweep import gc
    from slurm.watch import look, used_here

    trash = runs / gc.TRASH
    if purge:
        old = gc.trashed(runs)
        _tell_waste(old, f"{trash} holds", runs)
        if not old:
            print(f"{trash} holds nothing to delete")
        elif yes or confirm(f"delete {_amount(old)} for good?"):
            gc.purge(old)
            print(f"deleted {_amount(old)}")
        else:
            print("nothing was deleted")
        return
    view = look(runs) if used_here(runs) else None
    if view and view.problem:
        raise UserError(f"{view.problem}: nothing is moved while tasks may be running")
    busy = [task.launch.folder for task in view.queue] if view else []
    found = gc.find_waste(runs, busy)
    _tell_waste(found.waste, "of no run:", runs)
    for line in found.kept:
        print(f"kept: {line}")
    if found.young:
        first, many = found.young[0].relative_to(runs.resolve()), len(found.young)
        more = f" and {many - 1} more" if many > 1 else ""
        print(f"kept: {first}{more}: of no run, but changed within the hour: somebody may be at work there")
    words = {"new": "not begun", "resume": "unfinished"}
    states = ", ".join(f"{many} {words.get(state, state)}" for state, many in sorted(found.runs.items()))
    if states:
        print(f"kept: all runs: {states}")
    if not found.waste:
        print("nothing to move away")
    elif yes or confirm(f"move {_amount(found.waste)} to {trash}?"):
        moved, place = gc.discard(runs, found.waste, busy)
        print(f"moved {_amount(moved)}" + (f" to {place}" if place else ""))
    else:
        print("nothing was moved")
    if old := gc.trashed(runs):
        held = size(sum(item.size for item in old))
        print(f"{trash} holds {held}; `harness gc {runs} --purge` deletes that for good")


def _tell_waste(waste: Sequence[Waste], head: str, root: Path) -> None:
    if waste:
        print(head)
    for item in waste:
        print(f"{size(item.size):>9}  {item.path.relative_to(root.resolve())}  ({item.why})")


def _amount(waste: Sequence[Waste]) -> str:
    """How many files and folders there are, and what they take."""
    many = "1 file or folder" if len(waste) == 1 else f"{len(waste)} files and folders"
    return f"{many} ({size(sum(item.size for item in waste))})"


def listed(found: Sequence[tuple[str, str]]) -> str:
    """Names beside their texts, whose further lines stand below their first."""
    width = max(len(name) for name, _ in found) + 2
    lines = [
        f"{name if first else '':<{width}}{line}"
        for name, text in found
        for first, line in zip((True, *[False] * text.count("\n")), text.split("\n"), strict=True)
    ]
    return "\n".join(lines)


@app.command(epilog="Example: harness show method=tp_sds seed=0 prompt=bus")
def show(
    run: Annotated[
        list[str],
        Argument(
            help="A run: its folder, a part of its id, or words that it alone fits, as in FILTER.",
            autocompletion=complete_run,
            callback=expanded_words,
        ),
    ],
    runs: Annotated[Path, Option(help="The folder of runs.", callback=expanded)] = Path("runs"),
    as_json: Annotated[bool, Option("--json", help="Print JSON, with all of its settings.")] = False,
) -> None:
    """One run: what was asked, where it stands, why it failed, its last metrics, where its views are."""
    from harness.console import say
    from harness.sweep.select import find_run
    from harness.sweep.status import describe, reading

    folder = find_run(run, runs)
    if as_json:
        print(json.dumps(describe(folder), indent=2, ensure_ascii=False))
    else:
        say(listed(reading(folder)))


@app.command(epilog="Example: harness sync runs --study dreamtime")
def sync(
    runs: Runs = Path("runs"),
    words: Filter = [],  # noqa: B006
    study: Annotated[
        str | None, Option("--study", "--wandb-project", help="W&B's project; the sweep's by default.")
    ] = None,
    sweep: Annotated[
        str,
        Option("--group", "--wandb-group", help="W&B's group; the sweep's, or the name of RUNS, by default."),
    ] = "",
    entity: Annotated[str | None, Option(help="W&B's entity; the API key's default one by default.")] = None,
    to: Annotated[
        Literal["wandb", "trackio"], Option(help="Trackio: a dashboard on this machine, without an account.")
    ] = "wandb",
) -> None:
    """Give W&B, or Trackio, what it lacks of these runs; the same command again sends nothing."""
    from harness.console import busy, say_some
    from harness.records.mirror import Place
    from harness.records.trackio_copy import copy
    from harness.records.wandb_sync import sync as upload
    from harness.sweep.select import select

    if entity and to == "trackio":
        raise UserError("--entity is W&B's; Trackio's projects are on this machine")
    folders = select(runs, words)
    place = Place.of(runs, study, sweep)
    with busy(f"bringing {len(folders)} runs to {MIRRORS[to]}:") as more:

        def tell(so_far: Outcome) -> None:
            more(so_far.line)

        outcome = copy(folders, place, tell) if to == "trackio" else upload(folders, place, entity, tell)
    say_some([f"left: {name}: {problem}" for name, problem in outcome.left.items()], file=sys.stderr)
    say_some([f"damaged: {name}: {damage}" for name, damage in outcome.damaged.items()], file=sys.stderr)
    print(f"{len(folders)} runs in {MIRRORS[to]} project {place.project}: {outcome.line}")
    if to == "trackio":
        print(f"next: trackio show --project {place.project}")
    raise Exit(1 if outcome.left else 0)
