"""`harness power`: what runs could have seen, and how many prompts × seeds it takes to see it. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from eval.metrics.r_precision import RPrecision
from eval.runs import Runs
from eval.statistics.convergence import SHARES
from eval.statistics.intervals import paired, paired_difference
from eval.statistics.power import (
    POWERS,
    Spread,
    cheapest,
    prompts_for,
    ratio_power,
    seeds_for_width,
    smallest,
    spread_of,
    widest,
    within_budget,
)
from eval.tables.controls import reference
from eval.tables.cost import costs
from eval.tables.differences import compared, shown_from
from eval.tables.rows import by_prompt, left_out, rng
from eval.tables.table import Cell, Number, Table, percent
from harness.config import UserError
from harness.text import short

GRID = (24, 51, 102)  # prompts for which the power of a ratio is simulated, beside the whole suite
METRIC = ["r_precision"]


@dataclass(frozen=True)
class Plan:
    """What somebody wants to see: differences in points, or a ratio of steps; with how many seeds; of how
    many prompts at most; a budget in runs of each method, and a half width of the interval in points."""

    differences: Sequence[float] = (5.0, 10.0, 20.0)
    ratio: float = 0.65
    seeds: Sequence[int] = (1, 2, 3, 5)
    prompts: int = 153
    budget: int | None = None
    width: float | None = None

    def __post_init__(self) -> None:
        if not all(0 < d <= 100 for d in self.differences):
            raise UserError(f"--difference is in points, above 0 to 100, not {self.differences}")
        if not self.ratio > 0 or self.ratio == 1:
            raise UserError(f"--ratio is above 0 and not 1, such as 0.65, not {self.ratio:g}")
        if not self.seeds or min(self.seeds) < 1 or self.prompts < 2:
            raise UserError("--seeds are 1 or more, and --prompts 2 or more")
        if self.width is not None and not 0 < self.width < 100:
            raise UserError(f"--width is in points, above 0 and below 100, not {self.width:g}")


def seen(runs: Runs) -> tuple[Table, Spread]:
    """What these runs could have shown, a row for each comparison; and the comparison that varies most."""
    rows: list[list[Cell]] = []
    spreads, dropped = [], dict[str, int]()
    for method, total, part, theirs in compared(runs, runs.of(RPrecision).frame):
        ours, base = by_prompt(part, "majority"), by_prompt(theirs, "majority")
        gaps, _ = paired(ours, base)
        difference = paired_difference(ours, base, rng(), shares=True)
        dropped[method] = difference.n_dropped
        if len(gaps) > 1:
            spreads.append(spread_of(gaps, shares=True))
        visible = [shown_from(gaps, power) for power in POWERS]
        rows.append([method, total, percent(difference, sign=True), *visible, len(gaps), difference.n_pairs])
    if not spreads:
        raise UserError("power needs uniform_sds and another method with two prompts in common")
    heads = [f"visible at {power:.0%} power" for power in POWERS]
    title = f"What these runs could show: difference to {runs.baseline}, R-Precision by majority, points"
    notes = [
        "A true difference of that size has its 95 % interval clear of 0 in so many of repeated studies.",
        *left_out(dropped),
    ]
    columns = ["method", "step", "difference", *heads, "prompts", "pairs"]
    return Table("power", METRIC, title, columns, rows, notes), widest(spreads)


def needed(spread: Spread, plan: Plan, metrics: Sequence[str] = ()) -> Table:
    """Prompts that show each difference, by seeds, and the fewest runs that do."""
    rows: list[list[Cell]] = []
    for points in plan.differences:
        for power in POWERS:
            each = [prompts_for(points / 100, spread, seeds, power) for seeds in plan.seeds]
            best = cheapest(points / 100, spread, plan.prompts, power)
            few = f"{best[0]} × {best[1]}" if best else f"none of {plan.prompts} prompts"
            rows.append([f"{points:g}", f"{power:.0%}", *("–" if n is None else n for n in each), few])
    deviations = [100 * np.sqrt(value) for value in (spread.between, spread.within)]
    notes = [
        "Standard deviation of a pair's difference: between prompts {:.0f} points, between the seeds of a "
        "prompt {:.0f}.".format(*deviations)
    ]
    if not spread.within:
        notes.append("One seed a prompt: what more seeds would bring is not known, and counts as nothing.")
    heads = [f"prompts, {seeds} seed{'s' * (seeds > 1)}" for seeds in plan.seeds]
    columns = ["points", "power", *heads, f"fewest runs, at most {plan.prompts} prompts"]
    title = "Prompts × seeds that show a difference of R-Precision by majority, for each method"
    return Table("power_needed", metrics, title, columns, rows, notes)


def steps(runs: Runs, plan: Plan) -> Table:
    """How often so many prompts × seeds show that a method takes `plan.ratio` times the baseline's steps."""
    scores = runs.of(RPrecision).scores
    baseline = reference(runs)
    if baseline is None:
        raise UserError("power of a ratio of steps needs runs of uniform_sds")
    scores = scores.loc[scores["method"] == baseline]
    total = int(scores["total"].max())
    x_X, curves = _curves(scores.loc[scores["total"] == total])
    grid = sorted({n for n in GRID if n < plan.prompts} | {plan.prompts})
    share = SHARES[0]
    rows: list[list[Cell]] = []
    for prompts in grid:
        powers = [ratio_power(x_X, curves, prompts, seeds, plan.ratio, share, rng()) for seeds in plan.seeds]
        rows.append([prompts, *(Number(power, scale=100, digits=0) for power in powers)])
    alone = all(len(own) == 1 for own in curves.values())
    notes = [
        f"Simulated from {baseline}'s curves of N = {total}: a method that reaches at {plan.ratio:g}·x "
        f"what {baseline} reaches at x; shown: the interval of the ratio at {share:.0%} of the "
        "baseline's final level is clear of 1.",
        *(["One seed a prompt: its methods are drawn from different prompts, so the power is more."] * alone),
    ]
    title = f"Power to show a ratio of steps of {plan.ratio:g}, %"
    heads = [f"{seeds} seed{'s' * (seeds > 1)}" for seeds in plan.seeds]
    return Table("power_steps", METRIC, title, ["prompts", *heads], rows, notes)


def of_runs(runs: Runs, plan: Plan) -> tuple[list[Table], list[str]]:
    """All that can be said of these runs and from them; a line for each table that cannot be made."""
    first, spread = seen(runs)
    tables, lines = [first, needed(spread, plan, METRIC)], advice(spread, plan)
    try:
        tables.append(steps(runs, plan))
    except UserError as error:
        lines.append(f"not made: power_steps: {error}")
    return tables, lines


def planned_with(
    plan: Plan,
    runs: Runs,
    prompts: int | None,
    hours: float | None,
    seconds: float | None,
    methods: int | None,
) -> Plan:
    """The plan with what these runs say of themselves: the prompts of their suite, and of a budget of hours
    what a run takes and how many methods there are. UserError where that was not measured."""
    plan = replace(plan, prompts=prompts or max(len(pool.prompts) for pool in runs.pools.values()))
    if hours is None:
        return plan
    if seconds is None:
        seconds = runs.of(costs).seconds(reference(runs) or runs.methods[0]).value * max(runs.totals)
    return replace(plan, budget=runs_in(hours, seconds, methods or len(runs.methods)))


def spread_named(text: str) -> Spread:
    """`30,20` as standard deviations between prompts and between a prompt's seeds, points; UserError."""
    parts = [part.strip() for part in text.split(",")]
    try:
        between, within = (float(part) / 100 for part in parts)
    except ValueError:
        between = within = math.nan
    if not (0 <= between <= 1 and 0 <= within <= 1):
        raise UserError(f"--spread takes two numbers from 0 to 100, such as 30,20, not '{short(text, 60)}'")
    return Spread(between**2, within**2)


def runs_in(hours: float, seconds: float, methods: int) -> int:
    """How many runs of each of so many methods fit; UserError where not one does."""
    if not (math.isfinite(hours) and hours > 0 and math.isfinite(seconds) and seconds > 0):
        raise UserError(f"--hours {hours:g} and --seconds {seconds:g}: both are above 0")
    found = int(hours * 3600 / (seconds * methods))
    if found < 1:
        raise UserError(f"--hours {hours:g}: not one run of {methods} methods fits, at {seconds:.3g} s a run")
    return found


def _curves(scores: pd.DataFrame) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
    wide = scores.pivot(index=["prompt", "seed"], columns="step", values="majority").dropna()
    found = {str(prompt): own.to_numpy(np.float64) for prompt, own in wide.groupby(level="prompt")}
    if not found or not any(own[:, -1].any() for own in found.values()):
        raise UserError("no run of the baseline that was scored at every step is right at the end")
    return wide.columns.to_numpy(np.float64), found


def advice(spread: Spread, plan: Plan) -> list[str]:
    """What a budget of runs shows at best, and how many seeds a width of the interval takes; a line each."""
    lines = []
    if plan.budget is not None:
        prompts, seeds = within_budget(plan.budget, plan.prompts)
        visible = [100 * smallest(spread, prompts, seeds, power) for power in POWERS]
        told = " and ".join(f"{d:.1f} points at {p:.0%}" for d, p in zip(visible, POWERS, strict=True))
        lines.append(
            f"{plan.budget} runs of each method: {prompts} prompts × {seeds} seeds show {told} power"
        )
    if plan.width is not None:
        found = seeds_for_width(spread, plan.prompts, plan.width / 100)
        many = "no number of seeds" if found is None else f"{found} seed{'s' * (found > 1)}"
        lines.append(
            f"an interval of ± {plan.width:g} points takes {many} of {plan.prompts} prompts: seeds may be "
            "added until it is that narrow, whatever the difference; never until it is significant"
        )
    return lines
