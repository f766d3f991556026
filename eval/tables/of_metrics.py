"""Tables of metrics: a row of means per method and N, metrics that share a table beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from eval.tables.rows import groups
from eval.tables.table import Cell, Table
from harness.config import UserError

if TYPE_CHECKING:
    from eval.metric import Metric
    from eval.runs import Runs

CAPTIONS = {"signatures": "Failure signatures at the final step [95 % interval over prompts]"}
LAST = "failed"  # among metrics that share a table


def tables_of(kinds: Mapping[str, type[Metric]]) -> dict[str, list[type[Metric]]]:
    """Table → the metrics that stand in it, in their order; those without numbers of their own have none."""
    found: dict[str, list[type[Metric]]] = {}
    first = ("janus", "appearance")
    order = sorted(kinds, key=lambda name: (name == LAST, name not in first, name != "janus", name))
    for name in order:
        kind = kinds[name]
        if kind.columns and kind.table not in kinds:  # a guest of another metric's table is put there by it
            found.setdefault(kind.table or name, []).append(kind)
    return found


def table_of(runs: Runs, name: str, metrics: Sequence[Metric]) -> Table:
    """The table of some metrics; UserError where none of them has a value.

    The row of a metric that has none of some method is "–"; a metric that has none of all is left out, and
    why is noted.
    """
    if len(metrics) == 1 and (own := metrics[0].own_table()):
        return own
    shown, reasons = [], []
    for metric in metrics:
        try:
            shown += [metric] if len(metric.frame) else []
        except UserError as error:
            reasons.append(error)
            if len(metrics) > 1:
                runs.note(f"no {metric.name} in {name}: {error}")
    if not shown:
        raise reasons[0] if reasons else UserError(f"no run has a value of {name}")
    parts = [{(method, n): part for method, n, part in groups(runs, metric.frame)} for metric in shown]
    every = pd.concat([metric.frame for metric in shown])
    every = every.drop_duplicates("run") if "run" in every else every
    counts = [
        {head: n for head, n in shown[0].counts(part).items() if head != "failed" or shown[-1].name != LAST}
        for _, _, part in groups(runs, every)
    ]
    rows: list[list[Cell]] = []
    for (method, total, _), counted in zip(groups(runs, every), counts, strict=True):
        cells: list[Cell] = []
        for metric, own in zip(shown, parts, strict=True):
            part = own.get((method, total))
            cells += ["–"] * len(metric.heads) if part is None else metric.cells(part)
        rows.append([method, total, *cells, *counted.values()])
    for index, metric in enumerate(shown):
        before = sum(len(each.heads) for each in shown[:index])
        after = sum(len(each.heads) for each in shown[index + 1 :])
        for place, one in enumerate(metric.references()):
            ends = [one.prompts, *["–"] * (len(counts[0]) - 1)]
            row = [one.label, "–", *["–"] * before, *one.cells, *["–"] * after, *ends]
            rows.insert(place if one.first else len(rows), row)
    heads = ["method", "step", *(head for metric in shown for head in metric.heads), *counts[0]]
    lead = shown[0]
    title = f"{lead.title or name} at the final step [95 % interval over prompts]"
    caption = CAPTIONS.get(name) or lead.caption or title
    notes = [note for metric in shown for note in metric.notes()]
    return Table(name, [metric.name for metric in shown], caption, heads, rows, notes)
