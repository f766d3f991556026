"""Every method against the baseline, paired by prompt and seed, and what these prompts can show at best."""

from __future__ import annotations

from eval.metrics.r_precision import RPrecision
from eval.runs import Runs
from eval.statistics.intervals import holm, paired_difference, prompts_to_decide
from eval.tables.rows import by_prompt, distinct, groups, rng
from eval.tables.table import Cell, Number, Table, percent
from harness.config import UserError


def table(runs: Runs) -> Table:
    """Every method against the baseline at the same prompts and seeds."""
    baseline = baseline_of(runs)
    final = runs.of(RPrecision).frame
    found = {}
    for method, total, part in groups(runs, final):
        theirs = final.loc[(final["method"] == baseline) & (final["total"] == total)]
        if method != baseline and len(theirs):
            ours, base = by_prompt(part, "majority"), by_prompt(theirs, "majority")
            found[f"{method} {total}"] = (method, total, paired_difference(ours, base, rng(), shares=True))
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
         *power(runs)],
    )  # fmt: skip


def power(runs: Runs) -> list[str]:
    """What these prompts could show at best, as a note: the smallest difference to the baseline that the
    sign-flip test would call after Holm; none without a baseline to compare with."""
    final = runs.of(RPrecision).frame
    if runs.baseline is None or len(runs.methods) < 2:
        return []
    compared = set(final.loc[final["method"] == runs.baseline, "total"])
    own = [
        part for method, total, part in groups(runs, final) if method != runs.baseline and total in compared
    ]
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
