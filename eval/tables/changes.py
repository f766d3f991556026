"""What each changed setting does, where a sweep changes one at a time from what is usual."""

from __future__ import annotations

import pandas as pd

from eval.metrics.r_precision import RPrecision
from eval.metrics.shapes import Shapes
from eval.runs import Runs
from eval.statistics.intervals import holm
from eval.tables.rows import difference, gap_of, groups, left_out, p_of
from eval.tables.table import Cell, Table
from harness.config import UserError


def table(runs: Runs) -> Table:
    """Every row against its method's at the usual settings and N, paired by prompt and seed.

    Raises UserError where there is no such row.
    """
    if not runs.usual:
        raise UserError("no settings were changed one at a time from a common row")
    scores = runs.of(RPrecision).frame
    shapes = runs.frame_of(Shapes)
    found = []
    for name, total, part in groups(runs, scores):
        usual = _usual(runs, name, scores)
        if usual is None or usual == (name, total):
            continue
        theirs = _of(scores, *usual)
        by_view, majority = (
            difference(part, theirs, column, shares=True) for column in ("per_view", "majority")
        )
        found.append((name, total, by_view, majority, _iou(shapes, (name, total), usual)))
    if not found:
        raise UserError("no row has every setting's usual value, so that there is nothing to compare with")
    p_values = {(name, total): by_view.p_value for name, total, by_view, *_ in found if by_view}
    adjusted = holm(p_values)
    rows: list[list[Cell]] = [
        [
            name, total, gap_of(by_view), p_of(p_values, (name, total)), p_of(adjusted, (name, total)),
            gap_of(majority), iou, by_view.n_prompts if by_view else 0,
        ]
        for name, total, by_view, majority, iou in found
    ]  # fmt: skip
    return Table(
        "changes",
        ["r_precision", *(["shapes"] if shapes is not None else [])],
        "Change from the usual settings, points [95 % interval]",
        ["method", "step", "R-Precision by views", "p", "p (Holm)", "by majority", "aligned IoU", "prompts"],
        rows,
        [
            "Paired by prompt and seed. p: sign flips over prompts, of R-Precision by views.",
            *left_out({name: by_view.n_dropped for name, _, by_view, *_ in found if by_view}),
        ],
    )


def _usual(runs: Runs, name: str, scores: pd.DataFrame) -> tuple[str, int] | None:
    """The row of a row's method that has every setting's usual value, and its N, which is the commonest where
    it has several; None where there is no such row, or more than one."""
    usual = [
        row.name
        for row in runs.rows.values()
        if row.method == runs.rows[name].method and not {*row.at} - {*runs.usual.items()}
    ]
    own = scores.loc[scores["method"].isin(usual), "total"].unique()
    if len(usual) != 1 or not len(own):
        return None
    common = int(scores["total"].mode()[0])
    return usual[0], min(map(int, own), key=lambda total: (abs(total - common), total))


def _of(frame: pd.DataFrame, method: str, total: int) -> pd.DataFrame:
    return frame.loc[(frame["method"] == method) & (frame["total"] == total)]


def _iou(shapes: pd.DataFrame | None, ours: tuple[str, int], theirs: tuple[str, int]) -> Cell:
    """The difference of aligned IoU; "–" where one of the two has no solid."""
    if shapes is None:
        return "–"
    return gap_of(difference(_of(shapes, *ours), _of(shapes, *theirs), "aligned_iou"))
