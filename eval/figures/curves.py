"""R-Precision over steps and over wall time (DreamTime, fig. 8)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from eval.figures.looks import Look, looks
from eval.figures.style import COLUMN, FINE, GREY, PAGE, SMALL, Sheet, chart_of, few_ticks, handle, legend
from eval.metrics.r_precision import RPrecision
from eval.runs import Runs
from eval.statistics.convergence import Axis, curve
from eval.tables.cost import costs
from eval.tables.rows import longest

BANDS = 4  # that many shaded bands can be told apart
MARKS = 12  # on a line, at most
PANELS = 4  # in a row, at most
CURVES = 12  # in a panel, at most: more look alike
BESIDE = 5  # panels of one method each in a row


@dataclass(frozen=True)
class _Panel:
    """Curves of some scores side by side with others'."""

    title: str
    xlabel: str
    x: Axis
    scores: pd.DataFrame
    bars: bool = False


def r_precision(runs: Runs) -> Sheet:
    """Majority R-Precision against the step, with 95 % bands; runs with their own N in a second panel, and
    of one N methods at several settings, or very many methods, in a panel for each."""
    settings = _by_setting(runs) if len(runs.totals) == 1 else {}
    apart = 1 < len(settings) <= PANELS
    methods = list(dict.fromkeys(runs.rows[name].method for name in runs.methods)) if apart else runs.methods
    scores = _scores(runs)
    if apart:
        of_setting = {name: scores.loc[scores["method"].isin(rows)] for name, rows in settings.items()}
        panels = [
            _Panel(name, "step", "step", own.assign(method=own["method"].map(settings[name])))
            for name, own in of_setting.items()
        ]
    else:
        panels = _over_steps_and_n(runs, scores)
    if len(panels) == 1 and len(methods) > CURVES:
        return _each(runs, panels[0])
    wide = len(panels) > 1 or _crowded(runs)
    sheet = _sheet(runs, PAGE if wide else COLUMN, methods)
    look = looks(methods)
    for axes, panel in zip(np.atleast_1d(sheet.subplots(1, len(panels), sharey=True)), panels, strict=True):
        _draw(axes, curve(panel.scores, panel.x), look, panel.scores, runs, panel.bars)
        axes.set(title=panel.title, xlabel=panel.xlabel)
    sheet.axes[0].set_ylabel("R-Precision, %")
    return sheet.shows(pd.concat([panel.scores["run"] for panel in panels]))


def _each(runs: Runs, panel: _Panel) -> Sheet:
    """A panel for every method, with the baseline's curve behind it."""
    rows = math.ceil(len(runs.methods) / BESIDE)
    base = f"; grey: {runs.baseline}" if runs.baseline else ""
    sheet = chart_of(
        runs,
        PAGE,
        0.6 + 0.85 * rows,
        f"{counted(panel.scores)}, {runs.stamp.clip}; bands: 95 % over prompts{base}.",
    )
    curves, look = curve(panel.scores, panel.x), looks(runs.methods)
    places = sheet.subplots(rows, BESIDE, sharex=True, sharey=True, squeeze=False).flat
    for name, axes in zip(runs.methods, places, strict=False):
        for method, colour in ((runs.base(name), GREY), (name, look[name].colour)):
            own = curves.loc[curves["method"] == method]
            axes.plot(own["x"], 100 * own["mean"], color=colour)
        own, colour = curves.loc[curves["method"] == name], look[name].colour
        axes.fill_between(
            own["x"], 100 * own["low"], 100 * own["high"], color=colour, alpha=0.13, linewidth=0
        )
        axes.set_title(name, fontsize=FINE)
        axes.set(ylim=(0, 104), xlim=(0, None))
        few_ticks(axes)
    for axes in places:
        axes.set_axis_off()
    for axes in sheet.axes[: len(runs.methods)][-BESIDE:]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
        axes.set_xlabel(panel.xlabel)
    sheet.supylabel("R-Precision, %", fontsize=SMALL)
    return sheet.shows(panel.scores["run"])


def _over_steps_and_n(runs: Runs, scores: pd.DataFrame) -> list[_Panel]:
    """The runs with the most steps over these, and where there are several N all over those; runs that were
    evaluated once have no curve over steps."""
    last, several = longest(scores), len(runs.totals) > 1
    title = f"checkpoints of runs with N = {max(runs.totals)}" if several else ""
    over_steps = _Panel(title, "step", "step", last)
    if not several:
        return [over_steps]
    own_n = _Panel("runs with their own N", "N", "total", scores.loc[scores["final"]], bars=True)
    return [over_steps, own_n] if last["step"].nunique() > 1 else [own_n]


def _by_setting(runs: Runs) -> dict[str, dict[str, str]]:
    """What differs between rows → row → method, where every setting has the same methods, two or more; {}
    where they have not."""
    found: dict[str, dict[str, str]] = {}
    for row in (runs.rows[name] for name in runs.methods):
        setting = "usual settings" if row.name == row.method else row.name.removeprefix(f"{row.method}, ")
        found.setdefault(setting, {})[row.name] = row.method
    methods = {frozenset(rows.values()) for rows in found.values()}
    return found if len(methods) == 1 and len(next(iter(methods))) > 1 else {}


def draw_r_precision(axes: Axes, runs: Runs) -> None:
    """The first panel of `r_precision` with a legend, on axes of somebody else's figure."""
    last, look = longest(_scores(runs)), looks(runs.methods)
    _draw(axes, curve(last, "step"), look, last, runs)
    axes.set(xlabel="step", ylabel="R-Precision, %")
    axes.legend(handles=[handle(name, look[name]) for name in runs.methods])


def r_precision_time(runs: Runs) -> Sheet:
    """Majority R-Precision of the runs with the most steps against wall time, with 95 % bands.

    Wall time is steps × the method's cost per step; UserError where that was not measured.
    """
    timed = runs.of(costs)
    sheet = _sheet(runs, PAGE if _crowded(runs) else COLUMN, more=f"Wall time: steps × {timed.line}.")
    axes = sheet.subplots()
    last = longest(_scores(runs))
    curves = curve(last.assign(cost=timed.seconds_at(last)), "cost")
    unit, length = time_unit(float(curves["x"].to_numpy().max()))
    _draw(axes, curves.assign(x=curves["x"] / length), looks(runs.methods), last, runs)
    axes.set(xlabel=f"wall time, {unit}", ylabel="R-Precision, %")
    return sheet.shows(last["run"])


def time_unit(seconds: float) -> tuple[str, float]:
    """The unit that a time of that many seconds reads best in, and its length in seconds."""
    return next(
        pair for pair in (("h", 3600.0), ("min", 60.0), ("s", 1.0)) if seconds >= 2 * pair[1] or pair[1] == 1
    )


def counted(frame: pd.DataFrame) -> str:
    """How many prompts, seeds and failed runs stand behind a figure."""
    prompts, seeds = frame["prompt"].nunique(), frame["seed"].nunique()
    text = f"{prompts} prompt{'s' * (prompts > 1)} × {seeds} seed{'s' * (seeds > 1)}"
    if "problem" in frame:
        text += f", {frame.loc[frame['problem'].notna(), 'run'].nunique()} failed"
    return text


def _scores(runs: Runs) -> pd.DataFrame:
    return runs.of(RPrecision).scores.rename(columns={"majority": "value"})


def _sheet(runs: Runs, width: float, methods: Sequence[str] = (), more: str = "") -> Sheet:
    """An empty sheet with the legend of `methods`, all by default."""
    frame = _scores(runs)
    pools = "/".join(map(str, sorted(set(frame["pool"]))))
    look = looks(methods or runs.methods)
    band = "bars at the end" if len(look) > BANDS else "bands"
    band = f"{band}: 95 % over prompts" if len(set(frame["prompt"])) > 1 else "one prompt, no interval"
    caption = f"{counted(frame)}, pool {pools}, {runs.stamp.clip}; vote over views; {band}. {more}"
    sheet = chart_of(runs, width, 2.6, caption.strip())
    legend(sheet, [handle(name, look[name]) for name in look])
    return sheet


def _crowded(runs: Runs) -> bool:
    """More bands than can be told apart: intervals then stand at the end of each curve only."""
    return len(runs.methods) > BANDS


def _draw(
    axes: Axes,
    curves: pd.DataFrame,
    look: dict[str, Look],
    frame: pd.DataFrame,
    runs: Runs,
    bars: bool = False,
) -> None:
    """Lines with bands, or points with error bars, of one x always; the ceiling dashed and chance dotted."""
    bars = bars or curves["x"].nunique() == 1
    apart = 0.008 * curves["x"].max()  # between error bars that would hide each other
    covered = _covered(curves, list(look))
    for place, name in enumerate(look):
        own = curves.loc[curves["method"] == name]
        if own.empty:
            continue
        x, mean, low, high = (100 * own[column].to_numpy() for column in ("x", "mean", "low", "high"))
        x, shift = x / 100, apart * (place - (len(look) - 1) / 2)
        spread = np.nan_to_num(np.array([mean - low, high - mean]).clip(min=0))
        colour = look[name].colour
        if bars:
            axes.errorbar(x + shift, mean, spread, elinewidth=1.2, **look[name].draw())
            continue
        every = max(1, math.ceil(len(x) / MARKS))
        first = place * every // len(look)  # markers of coinciding curves stand apart, and
        width = 1.5 + 1.0 * covered[name]  # what lies below others is seen beside them
        axes.plot(x, mean, markevery=(first, every), linewidth=width, **look[name].draw())
        if len(look) > BANDS:
            axes.errorbar(x[-1] + apart * (place + 1), mean[-1], spread[:, -1:], color=colour, elinewidth=1.2)
        else:
            axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
    for label, y in runs.of(RPrecision).levels(frame):
        _reference(axes, 100 * y, label, ":" if label == "chance" else "--")
    axes.set_ylim(0, 104)
    axes.set_xlim(left=0)
    few_ticks(axes)


def _covered(curves: pd.DataFrame, names: Sequence[str]) -> dict[str, int]:
    """How many curves that are drawn after each lie on it: within a point at four of five of its steps."""
    at = curves.pivot_table(index="x", columns="method", values="mean").reindex(columns=list(names))
    on = {
        name: [((at[name] - at[later]).abs() <= 0.01).mean() >= 0.8 for later in names[place + 1 :]]
        for place, name in enumerate(names)
    }
    return {name: sum(lies) for name, lies in on.items()}


def _reference(axes: Axes, y: float, label: str, line: str) -> None:
    axes.axhline(y, color=GREY, linestyle=line, linewidth=1.2)
    # Where curves are seldom: under the ceiling at the start, over chance at the end.
    x, shift, ha, va = (0.015, -2, "left", "top") if y > 50 else (0.985, 2, "right", "bottom")
    axes.annotate(
        label, (x, y), xycoords=("axes fraction", "data"), xytext=(0, shift), textcoords="offset points",
        ha=ha, va=va, fontsize=SMALL, color=GREY,
    )  # fmt: skip
