"""Runs with their own N: between which N the baseline's level is reached."""

from __future__ import annotations

import math
from collections.abc import Callable

from eval.metrics.r_precision import RPrecision
from eval.runs import Runs
from eval.statistics import convergence
from eval.tables.differences import baseline_of
from eval.tables.rows import rng, share_of
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
    for method in runs.methods:
        own = final.loc[final["method"] == method]
        cells = [share_of(own.loc[own["total"] == total], "value") for total in totals]
        base = runs.base(method)
        if base is None:
            rows.append([method, *cells, *["–"] * (len(convergence.SHARES) + 3)])
            continue
        reached = [convergence.own_n(final, method, base, rng(), share) for share in convergence.SHARES]
        cells += [steps_between(each.method) for each in reached]
        cells.append("1" if method == base else ratio_between(reached[0].ratio))
        rows.append([method, *cells, reached[0].n_prompts, reached[0].n_runs])
    shares = [f"{100 * share:.0f} %" for share in convergence.SHARES]
    return Table(
        "own_n",
        ["convergence", "r_precision"],
        f"Runs with their own N: R-Precision by majority, %, and the N that reach the last of {baseline}",
        ["method", *(f"N = {total}" for total in totals), *(f"N to {share}" for share in shares),
         f"ratio at {shares[0]}", "prompts", "runs"],
        rows,
        [
            f"N to {shares[0]}: between which N of {', '.join(map(str, totals))} the method reaches "
            f"{shares[0]} of {baseline}'s level at N = {totals[-1]}; nothing was run in between. [In "
            "brackets: what 95 % of the resamples of prompts lie within.] The ratio lies between the least "
            "and the most both allow."
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
