"""Runs with their own N: between which N the baseline's level is reached."""

from __future__ import annotations

import math
from collections.abc import Callable

from eval.metrics.r_precision import RPrecision
from eval.runs import Runs
from eval.statistics import convergence
from eval.statistics.convergence import SHARES
from eval.tables.differences import baseline_of
from eval.tables.rows import left_out, rng, share_of, span
from eval.tables.table import Cell, Table
from harness.config import UserError


def table(runs: Runs) -> Table:
    """Runs with their own N: R-Precision at every N, and the N that reach the baseline's level."""
    baseline = baseline_of(runs)
    totals = runs.totals
    if len(totals) < 2:
        raise UserError("runs with their own N need several N: sweep with --steps 100,200,400 or the like")
    final = runs.of(RPrecision).frame.rename(columns={"majority": "value"})
    rows: list[list[Cell]] = []
    notes: list[str] = []
    dropped: dict[str, int] = {}
    for method in runs.methods:
        own = final.loc[final["method"] == method]
        cells = [share_of(own.loc[own["total"] == total], "value") for total in totals]
        base, reached = runs.base(method), []
        try:
            if base is not None:
                reached = [convergence.own_n(final, method, base, rng(), share) for share in SHARES]
        except UserError as error:  # none of its runs is there at every N
            notes.append(f"{method}: {error}.")
        if not reached:
            rows.append([method, *cells, *["–"] * (len(SHARES) + 3)])
            continue
        dropped[method] = reached[0].n_dropped
        cells += [steps_between(each.method) for each in reached]
        cells.append("1" if method == base else ratio_between(reached[0].ratio))
        rows.append([method, *cells, reached[0].n_prompts, reached[0].n_runs])
    shares = [f"{100 * share:.0f} %" for share in SHARES]
    bases = {base for method in runs.methods if (base := runs.base(method))}
    ends = {int(final.loc[final["method"] == base, "total"].max()) for base in bases}
    if any(dropped.values()):
        notes.append(
            "R-Precision is of all runs of its N, all else of those that both methods have at every N."
        )
    return Table(
        "own_n",
        ["convergence", "r_precision"],
        f"Runs with their own N: R-Precision by majority, %, and the N that reach the last of {baseline}",
        ["method", *(f"N = {total}" for total in totals), *(f"N to {share}" for share in shares),
         f"ratio at {shares[0]}", "prompts", "runs"],
        rows,
        [
            f"N to {shares[0]}: between which N of {', '.join(map(str, totals))} the method reaches "
            f"{shares[0]} of {baseline}'s level at N = {span(ends)}; nothing was run in between. [In "
            "brackets: what 95 % of the resamples of prompts lie within.] The ratio lies between the least "
            "and the most both allow.",
            *notes,
            *left_out(dropped),
        ],
    )  # fmt: skip


def steps_between(bracket: convergence.Bracket) -> str:
    """A bracket of N, such as "100–200 [≤ 200]"."""
    return _between(bracket, "{:.0f}".format)


def ratio_between(bracket: convergence.Bracket) -> str:
    """A bracket of a ratio, such as "0.25–1.00 [0.12, ∞]"."""
    return _between(bracket, "{:.2f}".format)


def _between(bracket: convergence.Bracket, one: Callable[[float], str]) -> str:
    def text(low: float, high: float) -> str:
        if low > 0 and math.isinf(high):
            return f"> {one(low)}"
        if math.isinf(high):
            return "any"
        return f"{one(low)}–{one(high)}" if low > 0 else f"≤ {one(high)}"

    inner = text(bracket.low, bracket.high)
    if math.isnan(bracket.outer_low):
        return inner
    return f"{inner} [{text(bracket.outer_low, bracket.outer_high)}]"
