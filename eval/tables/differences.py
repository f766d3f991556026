"""Every method against the baseline, paired by prompt and seed, and what these prompts can show at best."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from eval.metrics.r_precision import RPrecision
from eval.runs import Runs
from eval.sources.load import BASELINE
from eval.statistics.intervals import holm, paired, paired_difference, prompts_to_decide
from eval.statistics.power import POWERS, smallest, spread_of
from eval.tables.cost import counted
from eval.tables.rows import by_prompt, distinct, groups, rng
from eval.tables.table import Cell, Number, Table, percent
from harness.config import UserError, nearest
from harness.records.identity import COMPOSED

BUDGET = 0.05  # runs whose denoiser evaluations differ by no larger share count as of equal NFE


def table(runs: Runs) -> Table:
    """Every method against the baseline at the same prompts and seeds."""
    baseline = baseline_of(runs)
    found = list(compared(runs, runs.of(RPrecision).frame))
    budgets = {int(n) for _, total, _, theirs in found for n in set(theirs["total"]) - {total}}
    notes = [
        f"Runs of other numbers of steps than {baseline}'s {n} are held against these at an equal budget: "
        f"denoiser evaluations differ by {BUDGET:.0%} at most."
        for n in sorted(budgets)
    ]
    title = f"Difference to {baseline} at the final step: R-Precision by majority, points [95 % interval]"
    return _table("differences", title, found, [*notes, *decidable(runs)])


def by_distillation(runs: Runs) -> Table:
    """What a schedule does to each distillation: a@b against a on uniform timesteps, of equal N."""
    final = runs.of(RPrecision).frame
    found = []
    for method, total, part in groups(runs, final):
        left, composed, right = runs.rows[method].method.partition(COMPOSED)
        base = runs.beside(method, f"{left}{COMPOSED}{BASELINE}")
        base = runs.base(method) if left == BASELINE and base is None else base
        theirs = final.loc[(final["method"] == base) & (final["total"] == total)]
        if composed and right != BASELINE and len(theirs):
            found.append((method, total, part, theirs))
    if not found:
        raise UserError(f"it needs a method a@b beside a@{BASELINE}, such as csd@tp_sds and csd@{BASELINE}")
    title = (
        f"Difference of each a@b to a@{BASELINE} at the final step: R-Precision by majority, points "
        "[95 % interval]"
    )
    return _table("schedules", title, found, [])


def contrasts(runs: Runs) -> Table:
    """The pairs of methods that were named (`Runs.contrasts`), each at the largest N that both have."""
    if not runs.contrasts:
        raise UserError("no two methods were named to be held against each other (--contrast 'A vs B')")
    final = runs.of(RPrecision).frame
    found: list[Compared] = []
    for one, other in runs.contrasts:
        for name in (one, other):
            if name not in runs.methods:
                raise UserError(
                    f"contrast {one} vs {other}: no runs of '{name}'{nearest(name, runs.methods)}"
                )
        parts = [final.loc[final["method"] == name] for name in (one, other)]
        common = set(parts[0]["total"]) & set(parts[1]["total"])
        if not common:
            raise UserError(f"contrast {one} vs {other}: the two have no number of steps in common")
        ours, theirs = (part.loc[part["total"] == max(common)] for part in parts)
        found.append((f"{one} − {other}", int(max(common)), ours, theirs))
    title = "Contrasts at the final step: R-Precision by majority, points [95 % interval]"
    return _table("contrasts", title, found, [])


# A method, its N, its rows, and those that it is held against.
Compared = tuple[str, int, pd.DataFrame, pd.DataFrame]


def _table(name: str, title: str, asked: Sequence[Compared], notes: Sequence[str]) -> Table:
    found = {}
    for method, total, part, theirs in asked:
        ours, base = by_prompt(part, "majority"), by_prompt(theirs, "majority")
        gaps, _ = paired(ours, base)
        found[method, total] = paired_difference(ours, base, rng(), shares=True), gaps
    adjusted = holm({key: difference.p_value for key, (difference, _) in found.items()})
    rows: list[list[Cell]] = [
        [
            method, total, percent(difference, sign=True), shown_from(gaps), difference.wins,
            difference.ties, difference.losses, Number(difference.p_value, digits=3),
            Number(adjusted[method, total], digits=3), difference.n_prompts, difference.n_pairs,
            difference.n_dropped,
        ]
        for (method, total), (difference, gaps) in found.items()
    ]  # fmt: skip
    return Table(
        name,
        ["r_precision"],
        title,
        ["method", "step", "difference", "visible from", "won", "tied", "lost", "p", "p (Holm)", "prompts",
         "pairs", "dropped"],
        rows,
        [
            "Paired by prompt and seed; won, tied, lost: pairs. p: sign flips over prompts.",
            f"Visible from: so large a true difference these pairs would show, its interval clear of 0, with "
            f"{POWERS[0]:.0%} power (`harness power`).",
            *notes,
        ],
    )  # fmt: skip


def shown_from(gaps: Mapping[str, Mapping[int, float]], power: float = POWERS[0]) -> Number:
    """The smallest difference of shares that so many pairs as these show so often, points; "–" for one
    prompt, and infinite where no share is so large."""
    if len(gaps) < 2:
        return Number(math.nan)
    seeds = sum(map(len, gaps.values())) / len(gaps)
    found = smallest(spread_of(gaps, shares=True), len(gaps), seeds, power)
    return Number(found if found <= 1 else math.inf, scale=100.0)


def compared(runs: Runs, final: pd.DataFrame) -> Iterator[tuple[str, int, pd.DataFrame, pd.DataFrame]]:
    """Method, its N, its rows and the baseline's: of equal N, or where it has none of equal NFE."""
    for method, total, part in groups(runs, final):
        name = runs.base(method)
        if name is None or method == name:
            continue
        base = final.loc[final["method"] == name]
        theirs = base.loc[base["total"] == total]
        if not len(theirs):
            per_step = runs.of(_evaluations)
            wanted = per_step.get(method, math.nan) * total
            off = (base["total"] * per_step.get(name, math.nan) / wanted - 1).abs()
            near = base.loc[off <= BUDGET]
            theirs = near.loc[near["total"] == near["total"].loc[off.idxmin()]] if len(near) else near
        if len(theirs) and _places(part) & _places(theirs):
            yield method, total, part, theirs


def _places(frame: pd.DataFrame) -> set[tuple[str, int]]:
    return set(zip(frame["prompt"], frame["seed"], strict=True))


def _evaluations(runs: Runs) -> dict[str, float]:
    return counted(runs, runs.labels)


def decidable(runs: Runs) -> list[str]:
    """What these prompts could show at best, as a note: the smallest difference to the baseline that the
    sign-flip test would call after Holm; none without a baseline to compare with."""
    final = runs.of(RPrecision).frame
    if runs.baseline is None or len(runs.methods) < 2:
        return []
    own = [part for _, _, part, _ in compared(runs, final)]
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
