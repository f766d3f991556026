"""One value per method: diversity over seeds, and what a method costs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from eval.figures.curves import counted, time_unit
from eval.figures.style import FINE, GREY, PAGE, SMALL, Sheet, chart
from eval.looks import Look, looks
from eval.results import mean
from eval.study import Study
from harness.config import UserError


def diversity(study: Study) -> Sheet:
    """Mean pairwise distance and Vendi score over seeds, with 95 % intervals; the prior's distance dashed.

    Raises UserError where no prompt has two finished seeds.
    """
    frame = study.diversity.assign(seed=0)  # a row is a prompt: its seeds are in the value
    frame = frame.loc[frame["total"] == frame["total"].max()]
    prompts = frame["prompt"].nunique()
    fewest, most = frame["n_seeds"].min(), frame["n_seeds"].max()
    seeds = f"{most}" if fewest == most else f"{fewest}–{most}"
    caption = (
        f"{prompts} prompt{'s' * (prompts > 1)} × {seeds} finished seeds at step {frame['total'].iloc[0]}, "
        f"{study.stamp.clip}; bars: 95 % over prompts."
    )
    prior = frame.drop_duplicates("prompt")["prior_distance"]
    known = bool(prior.notna().all())
    if known:
        caption += " At the right: prompts whose seeds lie far closer together than the prior's own samples."
    sheet, (distance, vendi) = _panels(study, 2, caption)
    for axes, column in ((distance, "distance"), (vendi, "vendi")):
        for y, own, look in _rows(study, frame):
            _point(axes, y, own, column, look)
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
    runs = [run for run in study.runs if (study.labels[run.run_id], run.total, run.prompt) in shown]
    return sheet.shows(run.run_id for run in runs if not run.failure)


def cost(study: Study) -> Sheet:
    """Wall seconds per step and per run, and the sum over runs, of the finished runs with the most steps.

    Runs of a pack advance together and each is charged the pack's time, so that a sum over runs is an upper
    end of the machine's time. Raises UserError where no finished run has a time.
    """
    final = study.scores.loc[
        study.scores["final"] & study.scores["time"].notna() & study.scores["problem"].isna()
    ]
    if final.empty:
        raise UserError("no finished run has a wall time")
    final = final.loc[final["total"] == final["total"].max()]
    unit, seconds = time_unit(final["time"].max())
    sum_unit, sum_seconds = time_unit(final.groupby("method")["time"].sum().max())
    frame = final.assign(per_step=final["time"] / final["step"], per_run=final["time"] / seconds)
    caption = (
        f"{counted(frame.drop(columns='problem'))}, finished runs of {final['total'].iloc[0]} steps; bars: "
        f"95 % over prompts. Time as run: runs of a pack share the machine and each is charged the pack's "
        f"whole time, evaluation views and logging included."
    )
    sheet, (per_step, per_run, total) = _panels(study, 3, caption)
    for y, own, look in _rows(study, frame):
        for axes, column in ((per_step, "per_step"), (per_run, "per_run")):
            _bar(axes, y, own, column, look)
        if len(own):
            total.barh(y, own["time"].sum() / sum_seconds, 0.6, color=look.colour)
            _beside(total, y, f"{len(own)} runs")
    per_step.set(title="per step", xlabel="wall time, s")
    per_run.set(title="per run", xlabel=f"wall time, {unit}")
    total.set(title="sum over runs", xlabel=f"wall time, {sum_unit}")
    for axes in (per_step, per_run, total):
        axes.set_xlim(left=0)
    return sheet.shows(final["run"])


def _panels(study: Study, count: int, caption: str) -> tuple[Sheet, list[Axes]]:
    """Panels beside each other, a line per method from the top down, named at the left."""
    methods = study.methods
    sheet = chart(PAGE, 1.15 + 0.24 * len(methods), mark=study.stamp.mark, caption=caption)
    panels = list(sheet.subplots(1, count, sharey=True))
    panels[0].set_yticks(range(len(methods)), methods, fontsize=SMALL + 0.5)
    panels[0].set_ylim(len(methods) - 0.4, -0.6)
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
    return sheet, panels


def _rows(study: Study, frame: pd.DataFrame) -> list[tuple[int, pd.DataFrame, Look]]:
    look = looks(study.methods)
    return [(y, frame.loc[frame["method"] == name], look[name]) for y, name in enumerate(study.methods)]


def _spread(low: float, value: float, high: float) -> np.ndarray:
    """Lengths of an error bar, [2, 1]; none where there is no interval."""
    return np.nan_to_num(np.array([[value - low], [high - value]])).clip(min=0)


def _point(axes: Axes, y: int, own: pd.DataFrame, column: str, look: Look) -> None:
    if len(own):
        interval = mean(own, column)
        spread = _spread(interval.low, interval.value, interval.high)
        axes.errorbar(
            interval.value, y, xerr=spread, color=look.colour, marker=look.marker, markersize=5, clip_on=False
        )


def _bar(axes: Axes, y: int, own: pd.DataFrame, column: str, look: Look) -> None:
    if len(own):
        interval = mean(own, column)
        spread = _spread(interval.low, interval.value, interval.high)
        axes.barh(
            y, interval.value, 0.6, xerr=spread, color=look.colour, ecolor="0.1", error_kw={"linewidth": 1.2}
        )


def _beside(axes: Axes, y: int, text: str) -> None:
    axes.annotate(text, (1, y), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
                  va="center", fontsize=FINE, color=GREY, annotation_clip=False)  # fmt: skip
