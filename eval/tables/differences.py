"""Every method against the baseline, paired by prompt and seed, and what these prompts can show at best."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import harmonic_mean

import pandas as pd

from eval.metrics.r_precision import RPrecision
from eval.runs import Runs
from eval.sources.load import BASELINE
from eval.statistics.intervals import holm, paired, prompts_to_decide
from eval.statistics.power import POWERS, smallest, spread_of
from eval.tables.cost import counted
from eval.tables.rows import at_common_n, by_prompt, difference, gap_of, groups, p_of, places
from eval.tables.table import Cell, Number, Table
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
        ours, theirs = at_common_n(final, one, other)
        if ours.empty:
            raise UserError(f"contrast {one} vs {other}: the two have no number of steps in common")
        found.append((f"{one} − {other}", int(ours["total"].iloc[0]), ours, theirs))
    title = "Contrasts at the final step: R-Precision by majority, points [95 % interval]"
    return _table("contrasts", title, found, [])


# A method, its N, its rows, and those that it is held against.
Compared = tuple[str, int, pd.DataFrame, pd.DataFrame]


def _table(name: str, title: str, asked: Sequence[Compared], notes: Sequence[str]) -> Table:
    found = {
        (method, total): difference(part, theirs, "majority", shares=True)
        for method, total, part, theirs in asked
    }
    p_values = {key: gap.p_value for key, gap in found.items() if gap}
    if not p_values:
        raise UserError("no row has a prompt and seed in common with what it is held against")
    adjusted = holm(p_values)
    rows: list[list[Cell]] = []
    for method, total, part, theirs in asked:
        key = method, total
        gap = found[key]
        if gap is None:
            either = len(places(part) | places(theirs))
            rows.append([method, total, *["–"] * 7, 0, 0, either])
            continue
        gaps, _ = paired(by_prompt(part, "majority"), by_prompt(theirs, "majority"))
        rows.append([
            method, total, gap_of(gap), shown_from(gaps), gap.wins, gap.ties, gap.losses,
            p_of(p_values, key), p_of(adjusted, key), gap.n_prompts, gap.n_pairs, gap.n_dropped,
        ])  # fmt: skip
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
    seeds = harmonic_mean(map(len, gaps.values()))  # the mean of prompts' means has the variance of so many
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
        if places(part) & places(theirs):
            yield method, total, part, theirs


def _evaluations(runs: Runs) -> dict[str, float]:
    return counted(runs, runs.labels)


def decidable(runs: Runs) -> list[str]:
    """What these prompts could show at best, as a note: the smallest difference to the baseline that the
    sign-flip test would call after Holm; none without a baseline to compare with."""
    final = runs.of(RPrecision).frame
    if runs.baseline is None or len(runs.methods) < 2:
        return []
    own = [places(part) & places(theirs) for _, _, part, theirs in compared(runs, final)]
    if not own:
        return []
    prompts, seeds = (max(len({place[at] for place in pairs}) for pairs in own) for at in (0, 1))
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
