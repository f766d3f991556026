"""Every method against the baseline, paired by prompt and seed, and what these prompts can show at best."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from eval.metrics.r_precision import RPrecision
from eval.runs import Runs
from eval.statistics.intervals import holm, paired_difference, prompts_to_decide
from eval.tables.cost import counted
from eval.tables.rows import by_prompt, distinct, groups, rng
from eval.tables.table import Cell, Number, Table, percent
from harness.config import UserError

if TYPE_CHECKING:
    import pandas as pd

BUDGET = 0.05  # runs whose denoiser evaluations differ by no larger share count as of equal NFE


def table(runs: Runs) -> Table:
    """Every method against the baseline at the same prompts and seeds."""
    baseline = baseline_of(runs)
    final = runs.of(RPrecision).frame
    found = {}
    budgets = set()
    for method, total, part, theirs in _compared(runs, final):
        ours, base = by_prompt(part, "majority"), by_prompt(theirs, "majority")
        found[f"{method} {total}"] = (method, total, paired_difference(ours, base, rng(), shares=True))
        budgets |= set(theirs["total"]) - {total}
    adjusted = holm({name: difference.p_value for name, (_, _, difference) in found.items()})
    rows: list[list[Cell]] = [
        [
            method, total, percent(difference, sign=True), difference.wins, difference.ties,
            difference.losses, Number(difference.p_value, digits=3), Number(adjusted[name], digits=3),
            difference.n_prompts, difference.n_pairs, difference.n_dropped,
        ]
        for name, (method, total, difference) in found.items()
    ]  # fmt: skip
    return Table(
        "differences",
        ["r_precision"],
        f"Difference to {baseline} at the final step: R-Precision by majority, points [95 % interval]",
        ["method", "step", "difference", "won", "tied", "lost", "p", "p (Holm)", "prompts", "pairs",
         "dropped"],
        rows,
        ["Paired by prompt and seed; won, tied, lost: pairs. p: sign flips over prompts.",
         *(f"Runs of other numbers of steps than {baseline}'s {total} are held against these at an equal "
           f"budget: denoiser evaluations differ by {BUDGET:.0%} at most." for total in sorted(budgets)),
         *power(runs)],
    )  # fmt: skip


def _compared(runs: Runs, final: pd.DataFrame) -> Iterator[tuple[str, int, pd.DataFrame, pd.DataFrame]]:
    """Method, its N, its rows and the baseline's: of equal N, or where it has none of equal NFE."""
    base = final.loc[final["method"] == runs.baseline]
    for method, total, part in groups(runs, final):
        if method == runs.baseline:
            continue
        theirs = base.loc[base["total"] == total]
        if not len(theirs):
            per_step = runs.of(_evaluations)
            wanted = per_step.get(method, math.nan) * total
            spent = base["total"] * per_step.get(str(runs.baseline), math.nan)
            theirs = base.loc[(spent / wanted - 1).abs() <= BUDGET]
        if len(theirs) and theirs["total"].nunique() == 1:
            yield method, total, part, theirs


def _evaluations(runs: Runs) -> dict[str, float]:
    return counted(runs, runs.labels)


def power(runs: Runs) -> list[str]:
    """What these prompts could show at best, as a note: the smallest difference to the baseline that the
    sign-flip test would call after Holm; none without a baseline to compare with."""
    final = runs.of(RPrecision).frame
    if runs.baseline is None or len(runs.methods) < 2:
        return []
    own = [part for _, _, part, _ in _compared(runs, final)]
    if not own:
        return []
    prompts, seeds = (max(distinct(part, name) for part in own) for name in ("prompt", "seed"))
    needed = prompts_to_decide(len(own))
    said = f"{prompts} prompt{'s' * (prompts > 1)}"
    among = f"among {len(own)} row{'s' * (len(own) > 1)} compared with {runs.baseline}"
    if needed > prompts:
        best = min(1.0, len(own) * 2.0 ** (1 - prompts))
        return [
            f"{said} decide{'s' * (prompts == 1)} nothing: {among}, even one that wins on every prompt has "
            f"p (Holm) = {best:.2g}; it takes {needed} prompts"
        ]
    least = 100 * needed / (prompts * seeds)
    return [
        f"{said} can show a difference of {least:.1f} points at the least: {needed} won and none lost have "
        f"p (Holm) ≤ .05 {among}"
    ]


def baseline_of(runs: Runs) -> str:
    if runs.baseline is None or len(runs.methods) < 2:
        raise UserError(
            f"a comparison needs uniform_sds and another method; these runs have {', '.join(runs.methods)}"
        )
    return runs.baseline
