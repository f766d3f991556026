"""What each changed setting does, where a sweep changes one at a time from what is usual."""

from __future__ import annotations

from eval.metrics.r_precision import RPrecision
from eval.metrics.shapes import Shapes
from eval.runs import Runs
from eval.statistics.intervals import holm, paired_difference
from eval.tables.rows import by_prompt, groups, rng
from eval.tables.table import Cell, Number, Table, percent
from harness.config import UserError


def table(runs: Runs) -> Table:
    """Every row against its method's at the usual settings and N, paired by prompt and seed.

    Raises UserError where there is no such row.
    """
    if not runs.usual:
        raise UserError("no settings were changed one at a time from a common row")
    scores = runs.of(RPrecision).frame
    try:
        shapes = runs.of(Shapes).frame
    except UserError:
        shapes = None
    common = tuple(runs.usual.items())
    totals = scores.groupby("method")["total"].unique()
    found = []
    for name, total, part in groups(runs, scores):
        row = runs.rows[name]
        usual = [
            other
            for other in runs.rows.values()
            if other.method == row.method and not {*other.at} - {*common}
        ]
        if len(usual) != 1 or usual[0].name not in totals:
            continue
        reference = usual[0].name
        n = min(totals[reference], key=lambda each: (abs(int(each) - int(scores["total"].mode()[0])), each))
        if (name, total) == (reference, n):
            continue
        theirs = scores.loc[(scores["method"] == reference) & (scores["total"] == n)]
        by_view, majority = (
            paired_difference(by_prompt(part, column), by_prompt(theirs, column), rng(), shares=True)
            for column in ("per_view", "majority")
        )
        iou: Cell = "–"
        if shapes is not None:
            ours, others = (
                shapes.loc[(shapes["method"] == method) & (shapes["total"] == steps)]
                for method, steps in ((name, total), (reference, n))
            )
            if len(ours) and len(others):
                iou = percent(
                    paired_difference(
                        by_prompt(ours, "aligned_iou"), by_prompt(others, "aligned_iou"), rng()
                    ),
                    sign=True,
                )
        found.append((name, total, by_view, majority, iou))
    if not found:
        raise UserError("no row has every setting's usual value, so that there is nothing to compare with")
    adjusted = holm({f"{name} {total}": by_view.p_value for name, total, by_view, *_ in found})
    rows: list[list[Cell]] = [
        [
            name, total, percent(by_view, sign=True), Number(by_view.p_value, digits=3),
            Number(adjusted[f"{name} {total}"], digits=3), percent(majority, sign=True), iou,
            by_view.n_prompts,
        ]
        for name, total, by_view, majority, iou in found
    ]  # fmt: skip
    return Table(
        "changes",
        ["r_precision", *(["shapes"] if shapes is not None else [])],
        "Change from the usual settings, points [95 % interval]",
        ["method", "step", "R-Precision by views", "p", "p (Holm)", "by majority", "aligned IoU", "prompts"],
        rows,
        ["Paired by prompt and seed. p: sign flips over prompts, of R-Precision by views."],
    )
