"""`harness bench methods`: what a step of each method costs, timed side by side and kept with the runs.

Steps of fresh packs, every method in turn, in one process, on the machine that made the runs; views, logging
and checkpoints are not in it. Beside each stands what its evaluations of the denoiser alone would take, with
as many runs at once. Why no run's own clock is used: eval/tables/cost.py.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from eval.sources.load import RunRecord, in_order, load_runs, method_labels, rows_of
from eval.tables.cost import costs_of
from harness.bench import denoiser_calls, make_pack, steps
from harness.config import UserError
from harness.device import pick_device
from harness.distill.assemble import load_guidance, make_method
from harness.distill.step import Pack
from harness.records.costs import MethodCost, SideBySide, keep_costs, read_costs
from harness.records.environment import machine, snapshot
from harness.threads import torch_threads

ROUNDS = 9
SECONDS = 0.2  # that a method's turn in a round lasts, at least
OVER = 1.3  # what a step may take, its evaluations of the denoiser alone taking 1


def run(
    root: Path,
    methods_dirs: Sequence[Path] = (),
    rounds: int = ROUNDS,
    console: Console | None = None,
    only: Collection[str] | None = None,
) -> bool:
    """Measure every method under `root`, or those of the runs `only`, print what was found, and keep it in
    the folder's costs.json; whether every step stays within `OVER`.

    Raises UserError where no run can be read, where they were made on other machines, and for a method or
    prior that is not here.
    """
    runs = _runs(root, only)
    environments = [env for record in runs if (env := record.folder.env())]
    asked = next((env["device"] for env in environments if "device" in env), "auto")
    here = torch.device(pick_device(asked.partition(":")[0]))
    snapped = snapshot(str(here))
    theirs = {name for name in map(machine, environments) if name}
    if theirs and machine(snapped) not in theirs:
        raise UserError(
            f"{root}: its runs were made on {', '.join(sorted(theirs))}, and this is {machine(snapped)}; "
            "a step's time there is not a step's time here: run this command on that machine"
        )
    threads = next((env["threads"] for env in environments if "threads" in env), None)
    with torch_threads(threads if here.type == "cpu" else None):
        measured = _time(runs, here, machine(snapped), rounds, methods_dirs)
    keep_costs(root, measured)

    labels = method_labels(runs)
    costs = costs_of(runs, labels, [measured])
    overs = {labels[run.run_id]: measured.methods[run.cost_key].over_denoiser for run in runs}
    table = Table(
        *("method", "ms per run and step", "ratio", "NFE per step", f"over the denoiser alone (≤ {OVER:g})"),
        caption=costs.line,
        caption_justify="left",
    )
    names = in_order(rows_of(runs).values())
    for name in names:
        per_step = replace(costs.seconds(name), scale=1e3, digits=2)
        ratio = replace(costs.ratio(name, names[0]), digits=3)
        table.add_row(name, str(per_step), str(ratio), f"{costs.nfe[name]:g}", f"{overs[name]:.2f}")
    (console or Console()).print(table)
    return not any(over > OVER for over in overs.values())


def _runs(root: Path, only: Collection[str] | None) -> list[RunRecord]:
    return [run for run in load_runs(root)[0] if only is None or run.run_id in only]


def _time(
    runs: Sequence[RunRecord], here: torch.device, where: str, rounds: int, methods_dirs: Sequence[Path]
) -> SideBySide:
    """Seconds of steps of every kind of these runs, all in turn, with as many threads as torch has now."""
    longest = {run.cost_key: run for run in sorted(runs, key=lambda run: run.total)}
    pack = max(4, *(run.config.guidance.microbatch for run in runs))  # one branch fills a call
    turns = {}
    for key, record in longest.items():
        guidance, name = load_guidance(record.config, here), record.folder.spec().method
        method = make_method(record.config, guidance, name, record.params, methods_dirs)
        turns[key] = make_pack(record.config, guidance, pack, "auto", method)
    for key in turns:  # what is built or compiled at first use is no part of a step
        steps(turns[key], 2)()
    once = max(steps(each, 1)() for each in turns.values()) * pack
    repeats = max(1, math.ceil(SECONDS / once))
    seconds: dict[str, list[float]] = {key: [] for key in turns}
    alone = {each.guidance.tag: denoiser_calls(each.guidance, each, repeats) for each in turns.values()}
    evaluation: dict[str, list[float]] = {tag: [] for tag in alone}
    for index in range(rounds):
        for key in list(turns)[:: 1 - 2 * (index % 2)]:  # there and back: a steady drift cancels
            seconds[key].append(steps(turns[key], repeats)())
        for tag, call in alone.items():
            evaluation[tag].append(call() / 2)  # with the prompt, and without
    return SideBySide(
        machine=where,
        device=here.type,
        threads=torch.get_num_threads(),
        pack=pack,
        methods={
            key: MethodCost(
                nfe=evaluations(each),
                seconds=tuple(seconds[key]),
                evaluation=tuple(evaluation[each.guidance.tag]),
            )
            for key, each in turns.items()
        },
    )


def evaluations(pack: Pack) -> float:
    """Denoiser evaluations per run and step, as counted over the steps that were taken."""
    return int(pack.nfe_R.sum()) / int(pack.step_R.sum())


def run_where_missing(root: Path, only: Collection[str] | None = None) -> None:
    """`run`, unless all methods of these runs have been measured; one line where it cannot be done here."""
    try:
        runs = _runs(root, only)
        try:
            costs_of(runs, method_labels(runs), read_costs(root))
        except UserError:
            run(root, only=only)
    except UserError as error:
        print(f"wall time is not measured: {error}", flush=True)
