"""One value per method: R-Precision beside the baseline's, diversity over seeds, and what a method costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from eval.figures.curves import counted, time_unit
from eval.figures.looks import Look, looks
from eval.figures.style import FINE, GREY, PAGE, SMALL, Sheet, chart_of
from eval.metrics.diversity import SpreadOverSeeds
from eval.metrics.r_precision import RPrecision
from eval.runs import Runs
from eval.statistics.intervals import Interval, paired_difference
from eval.tables.cost import costs
from eval.tables.differences import baseline_of, compared
from eval.tables.rows import by_prompt, longest, mean, rng


def differences(runs: Runs) -> Sheet:
    """Majority R-Precision at the last step of each method's longest runs, and that less the baseline's, with
    95 % intervals.

    Raises UserError where there is no baseline, or nothing beside it.
    """
    baseline, final = baseline_of(runs), runs.of(RPrecision).frame
    last = final.loc[final["total"] == final.groupby("method")["total"].transform("max")]
    caption = (
        f"{counted(last)}, {runs.stamp.clip}; vote over views at the last step; bars: 95 % over prompts, "
        "each comparison by itself."
    )
    sheet, (level, gap) = _panels(runs, 2, caption)
    places, look = {name: y for y, name in enumerate(runs.methods)}, looks(runs.methods)
    for name, y in places.items():
        own = last.loc[last["method"] == name]
        _point(level, y, mean(own, "majority", share=True), look[name], 100)
    for name, _, part, theirs in compared(runs, last):
        ours, base = by_prompt(part, "majority"), by_prompt(theirs, "majority")
        found = paired_difference(ours, base, rng(), shares=True)
        _point(gap, places[name], found, look[name], 100)
    for label, share in runs.of(RPrecision).levels(last):
        level.axvline(100 * share, color=GREY, linestyle=":" if label == "chance" else "--", linewidth=1.2)
    gap.axvline(0, color=GREY, linewidth=1.2)
    level.set(title="dashed: ground truth; dotted: chance", xlabel="R-Precision, %", xlim=(0, 104))
    own_base = any(runs.base(name) not in (None, baseline) for name in runs.methods)
    gap.set(title=f"less {'its own baseline' if own_base else baseline}", xlabel="points")
    return sheet.shows(last["run"])


def diversity(runs: Runs) -> Sheet:
    """Mean pairwise distance and Vendi score over seeds, with 95 % intervals; the prior's distance dashed.

    Raises UserError where no prompt has two finished seeds.
    """
    frame = longest(runs.of(SpreadOverSeeds).frame)
    prompts = frame["prompt"].nunique()
    fewest, most = frame["n_seeds"].min(), frame["n_seeds"].max()
    seeds = f"{most}" if fewest == most else f"{fewest}–{most}"
    caption = (
        f"{prompts} prompt{'s' * (prompts > 1)} × {seeds} finished seeds at step {frame['total'].iloc[0]}, "
        f"{runs.stamp.clip}; bars: 95 % over prompts."
    )
    prior = frame.drop_duplicates("prompt")["prior_distance"]
    known = bool(prior.notna().all())
    if known:
        caption += " At the right: prompts whose seeds lie far closer together than the prior's own samples."
    sheet, (distance, vendi) = _panels(runs, 2, caption)
    look = looks(runs.methods)
    for axes, column in ((distance, "distance"), (vendi, "vendi")):
        for y, name in enumerate(runs.methods):
            own = frame.loc[frame["method"] == name]
            if len(own):
                _point(axes, y, mean(own, column), look[name])
            if axes is vendi and not len(own):
                _beside(axes, y, "no two seeds")
            elif axes is vendi and known:
                _beside(axes, y, f"{np.count_nonzero(own['collapsed'])}/{len(own)}")
    size = frame["vendi_of"].iloc[0]
    vendi.set(title=f"Vendi score of {size}", xlabel=f"1 = collapse, {size} = all different", xlim=(1, None))
    distance.set(title="distance", xlabel="mean pairwise 1 − cos", xlim=(0, None))
    if known:
        distance.axvline(prior.mean(), color=GREY, linestyle="--", linewidth=1.2)
        distance.set_title("distance (dashed: the prior's own)")
    shown = set(zip(frame["method"], frame["total"], frame["prompt"], strict=True))
    drawn = [run for run in runs if (runs.labels[run.run_id], run.total, run.prompt) in shown]
    return sheet.shows(run.run_id for run in drawn if not run.failure)


def cost(runs: Runs) -> Sheet:
    """Seconds per step and per run of the most steps, and denoiser evaluations per run.

    Raises UserError where the methods' steps were not timed side by side.
    """
    timed, total = runs.of(costs), max(runs.totals)
    unit, length = time_unit(total * max(timed.seconds(name).value for name in runs.methods))
    caption = f"{timed.line[0].upper()}{timed.line[1:]}; bars: 95 % over rounds. Per run: {total} steps."
    caption += f" ×: ratio to {runs.baseline}." * bool(runs.baseline)
    sheet, (per_step, per_run, evaluations) = _panels(runs, 3, caption)
    look = looks(runs.methods)
    for y, name in enumerate(runs.methods):
        seconds, colour = timed.seconds(name), look[name].colour
        for axes, scale in ((per_step, 1e3), (per_run, total / length)):
            spread = scale * _spread(seconds.low, seconds.value, seconds.high)
            axes.barh(y, seconds.value * scale, 0.6, xerr=spread, color=colour, ecolor="0.1",
                      error_kw={"linewidth": 1.2})  # fmt: skip
        evaluations.barh(y, timed.nfe[name] * total, 0.6, color=colour)
        if (base := runs.base(name)) and name != base:
            _beside(per_step, y, f"× {replace(timed.ratio(name, base), digits=2)}")
    per_step.set(title="per step", xlabel="wall time, ms")
    per_run.set(title="per run", xlabel=f"wall time, {unit}")
    evaluations.set(title="per run", xlabel="denoiser evaluations")
    for axes in (per_step, per_run, evaluations):
        axes.set_xlim(left=0)
    return sheet.shows(run.run_id for run in runs if run.total == total)


def _panels(runs: Runs, count: int, caption: str) -> tuple[Sheet, list[Axes]]:
    """Panels beside each other, a line per method from the top down, named at the left."""
    methods = runs.methods
    sheet = chart_of(runs, PAGE, 1.15 + 0.24 * len(methods), caption)
    panels = list(sheet.subplots(1, count, sharey=True))
    panels[0].set_yticks(range(len(methods)), methods, fontsize=SMALL + 0.5)
    panels[0].set_ylim(len(methods) - 0.4, -0.6)
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
    return sheet, panels


def _spread(low: float, value: float, high: float) -> np.ndarray:
    """Lengths of an error bar, [2, 1]; none where there is no interval."""
    return np.nan_to_num(np.array([[value - low], [high - value]])).clip(min=0)


def _point(axes: Axes, y: int, found: Interval, look: Look, scale: float = 1) -> None:
    spread = scale * _spread(found.low, found.value, found.high)
    axes.errorbar(
        scale * found.value,
        y,
        xerr=spread,
        color=look.colour,
        marker=look.marker,
        markersize=5,
        clip_on=False,
    )


def _beside(axes: Axes, y: int, text: str) -> None:
    axes.annotate(text, (1, y), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
                  va="center", fontsize=FINE, color=GREY, annotation_clip=False)  # fmt: skip
