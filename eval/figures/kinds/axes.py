"""R-Precision and diversity against a setting that the sweep spanned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from eval.figures.curves import counted
from eval.figures.figure import Figure
from eval.figures.looks import looks
from eval.figures.style import COLUMN, PAGE, Sheet, chart_of, handle
from eval.metrics.diversity import SpreadOverSeeds
from eval.metrics.r_precision import RPrecision
from eval.runs import Runs
from eval.tables.rows import longest, mean
from harness.config import UserError
from harness.records.rows import named, value_shown

WIDE = 8  # values that are so many times apart stand on a logarithmic axis
Line = list[tuple[Any, pd.DataFrame]]  # values of the setting, each with its rows of a metric


def axes(runs: Runs) -> Sheet:
    """R-Precision by majority of the runs with the most steps, and the distance of seeds where there are
    several, against every spanned setting; bars: 95 % over prompts.

    Raises UserError where no setting was spanned.
    """
    keys = list(dict.fromkeys(key for row in runs.rows.values() for key, _ in row.at))
    if not keys:
        raise UserError("no setting was spanned, as by --set guidance.cfg_scale=7.5,20,50")
    scores = longest(runs.of(RPrecision).frame)
    measures = [("R-Precision, %", "majority", 100.0, scores)]
    if (distances := runs.frame_of(SpreadOverSeeds)) is not None:  # else one seed
        measures.append(("distance of seeds, 1 − cos", "distance", 1.0, longest(distances)))
    lines = {key: _lines(runs, key) for key in keys}
    caption = (
        f"{counted(scores)} at step {scores['total'].max()}, {runs.stamp.clip}; bars: 95 % over prompts."
    )
    height = 0.6 + 2.0 * len(measures) + 0.15 * max(map(len, lines.values()))
    sheet = chart_of(runs, COLUMN if len(keys) == 1 else PAGE, height, caption)
    look = {key: looks(list(lines[key])) for key in keys}
    panels = sheet.subplots(len(measures), len(keys), squeeze=False, sharey="row", sharex="col")
    for panel, key in zip(panels[0], keys, strict=True):
        entries = [handle(name, each) for name, each in look[key].items()]
        panel.legend(handles=entries, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    for panel_K, (label, column, scale, frame) in zip(panels, measures, strict=True):
        panel_K[0].set_ylabel(label)
        for panel, key in zip(panel_K, keys, strict=True):
            for name, rows in lines[key].items():
                line = [(value, frame.loc[frame["method"] == row]) for value, row in rows]
                _draw(panel, [each for each in line if len(each[1])], column, scale, look[key][name].draw())
            panel.set_ylim(0, 104 if scale == 100 else None)
    for panel, key in zip(panels[-1], keys, strict=True):
        _ticks(panel, key, [value for rows in lines[key].values() for value, _ in rows])
    return sheet.shows(scores["run"])


def _lines(runs: Runs, key: str) -> dict[str, list[tuple[Any, str]]]:
    """Line → the values of the setting and the row of each; a line is a method at equal other settings."""
    found: dict[str, list[tuple[Any, str]]] = {}
    for name in runs.methods:
        row = runs.rows[name]
        at = dict(row.at)
        if key in at:
            others = tuple(each for each in row.at if each[0] != key and each not in runs.usual.items())
            found.setdefault(named(row.method, others), []).append((at[key], name))
    return found


def _place(value: Any, values: Sequence[Any]) -> float:
    """Where a value stands: a number at itself, a word at its place among the words."""
    if _numbers(values):
        return float(value)
    return float(sorted({value_shown(each) for each in values}).index(value_shown(value)))


def _numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _draw(panel: Axes, line: Line, column: str, scale: float, look: dict[str, Any]) -> None:
    if not line:
        return
    values = [value for value, _ in line]
    each = [mean(rows, column, share=scale == 100) for _, rows in line]
    mid, low, high = (
        scale * np.array([getattr(one, end) for one in each]) for end in ("value", "low", "high")
    )
    spread = np.nan_to_num(np.array([mid - low, high - mid])).clip(min=0)
    panel.errorbar([_place(value, values) for value in values], mid, spread, elinewidth=1.2, **look)


def _ticks(panel: Axes, key: str, values: Sequence[Any]) -> None:
    """The values that were run, each with its tick."""
    known = {value_shown(value): _place(value, values) for value in values}
    places = list(known.values())
    if _numbers(values) and min(places) > 0 and max(places) >= WIDE * min(places):
        panel.set_xscale("log")
    panel.set_xticks(places, list(known))
    panel.minorticks_off()
    panel.set_xlabel(key)


class OverAxes(Figure):
    needs = "a setting that was spanned"
    metrics = ("r_precision", "diversity")
    is_usual = False
    plot = staticmethod(axes)
