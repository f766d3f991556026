"""Scores of runs → tables with intervals, in the terminal, as Markdown and as csv. No torch."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.table import Table

from eval.stats import Interval, bootstrap_mean

SEED = 0  # of the bootstrap: every row sees the same resamples
TITLES = {"majority": "majority", "per_view": "per view", "mean_sim": "mean sim.", "held_out": "held-out"}


@dataclass(frozen=True)
class Outcome:
    """What one run scored at one step; `problem` says why a run counts as a miss there."""

    method: str
    prompt: str
    seed: int
    step: int
    final: bool
    pool: int
    scores: Mapping[str, float]
    problem: str | None = None


@dataclass(frozen=True)
class Row:
    """One method at one step: a mean with interval per score, and the counts behind them."""

    method: str
    step: int
    final: bool
    pool: int
    n_prompts: int
    n_seeds: int
    n_failed: int
    scores: Mapping[str, Interval]


@dataclass(frozen=True)
class Stamp:
    """What every number of a table rests on."""

    metric: str
    version: int
    clip: str
    weights: str
    pools: tuple[str, ...]
    priors: tuple[str, ...]
    toy: bool

    def line(self) -> str:
        """One line for a caption."""
        parts = [
            f"{self.metric} v{self.version}",
            f"CLIP {self.clip} {self.weights[:12]}",
            f"pool {', '.join(self.pools)}",
            f"prior {', '.join(self.priors)}",
        ]
        return " · ".join(["toy"] * self.toy + parts)


@dataclass(frozen=True)
class Report:
    """Everything the tables show."""

    stamp: Stamp
    rows: Sequence[Row]
    ceiling: Sequence[Row]
    notes: Sequence[str] = field(default=())


def summarise(outcomes: Sequence[Outcome]) -> list[Row]:
    """One row per method and step, methods in alphabetical order, steps rising."""
    groups: dict[tuple[str, int], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.method, outcome.step), []).append(outcome)
    return [_row(group) for _, group in sorted(groups.items())]


def _row(group: Sequence[Outcome]) -> Row:
    first = group[0]
    intervals = {}
    for name in first.scores:
        values: dict[str, list[float]] = {}
        for outcome in group:
            values.setdefault(outcome.prompt, []).append(outcome.scores[name])
        intervals[name] = bootstrap_mean(values, np.random.default_rng(SEED))
    return Row(
        method=first.method,
        step=first.step,
        final=first.final,
        pool=first.pool,
        n_prompts=len({outcome.prompt for outcome in group}),
        n_seeds=len({outcome.seed for outcome in group}),
        n_failed=sum(outcome.problem is not None for outcome in group),
        scores=intervals,
    )


def percent(interval: Interval) -> str:
    """A share as "81.2 [74.0, 87.5]" in per cent; the interval is "–" where it cannot be had."""
    if math.isnan(interval.low):
        return f"{100 * interval.value:.1f} [–]"
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _final_block(report: Report) -> tuple[list[str], list[list[str]]]:
    head = ["method", "step", *TITLES.values(), "prompts", "seeds", "failed", "pool"]
    body = []
    for row in [*(row for row in report.rows if row.final), *report.ceiling]:
        counts = [str(n) for n in (row.n_prompts, row.n_seeds, row.n_failed, row.pool)]
        step = str(row.step) if row.step else "–"
        body.append([row.method, step, *(percent(row.scores[name]) for name in TITLES), *counts])
    for pool in sorted({row.pool for row in report.rows}):
        body.append(["chance (floor)", "–", *[f"{100 / pool:.1f}"] * len(TITLES), "–", "–", "–", str(pool)])
    return head, body


def _steps_block(report: Report) -> tuple[list[str], list[list[str]]]:
    methods = sorted({row.method for row in report.rows})
    cells = {(row.method, row.step): row for row in report.rows}
    body = []
    for step in sorted({row.step for row in report.rows}):
        rows = [cells.get((method, step)) for method in methods]
        body.append([str(step), *(percent(row.scores["majority"]) if row else "–" for row in rows)])
    return ["step", *methods], body


FINAL_TITLE = "R-Precision at the final step, % [95 % interval over prompts]"
STEPS_TITLE = "R-Precision by majority vote at every evaluated step, %"


def terminal(report: Report) -> list[Table | str]:
    """What is printed: the two tables and the notes."""
    parts: list[Table | str] = []
    for title, (head, body) in ((FINAL_TITLE, _final_block(report)), (STEPS_TITLE, _steps_block(report))):
        table = Table(title=title, caption=report.stamp.line(), title_justify="left", caption_justify="left")
        for column, name in enumerate(head):
            first = column == 0
            table.add_column(name, justify="left" if first else "right", overflow="fold", no_wrap=first)
        for cells in body:
            table.add_row(*(cell.replace(" [", "\n[") for cell in cells))
        parts.append(table)
    return [*parts, *report.notes]


def markdown(report: Report) -> str:
    """Both tables, their stamp and the notes."""
    lines = ["# CLIP R-Precision" + (" (toy)" if report.stamp.toy else ""), "", report.stamp.line(), ""]
    for title, (head, body) in ((FINAL_TITLE, _final_block(report)), (STEPS_TITLE, _steps_block(report))):
        lines += [f"## {title}", "", "| " + " | ".join(head) + " |"]
        lines += ["|" + "|".join(["---", *["---:"] * (len(head) - 1)]) + "|"]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in body]
        lines.append("")
    lines += [f"- {note}" for note in report.notes]
    return "\n".join(lines).rstrip() + "\n"


CSV_COLUMNS = (
    "method", "step", "final", "score", "value", "low", "high", "n_prompts", "n_seeds", "n_runs", "n_failed",
    "pool", "metric", "version", "clip", "weights", "prior", "toy",
)  # fmt: skip


def as_csv(report: Report) -> str:
    """One line per method, step and score; every line carries what its number rests on."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    stamp = report.stamp
    for row in [*report.rows, *report.ceiling]:
        for name, interval in row.scores.items():
            numbers = [f"{x:.6f}" for x in (interval.value, interval.low, interval.high)]
            counts = (row.n_prompts, row.n_seeds, interval.n_runs, row.n_failed, row.pool)
            rests_on = (
                stamp.metric,
                stamp.version,
                stamp.clip,
                stamp.weights,
                "; ".join(stamp.priors),
                int(stamp.toy),
            )
            writer.writerow([row.method, row.step, int(row.final), name, *numbers, *counts, *rests_on])
    return text.getvalue()
