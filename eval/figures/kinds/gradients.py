"""Mean ‖ε̂−ε‖ over step × t (fig. 3)."""

from __future__ import annotations

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from eval.figures.curves import counted
from eval.figures.figure import Figure
from eval.figures.style import PAGE, Sheet, chart_of
from eval.metrics.gradients import Gradients
from eval.runs import Runs
from eval.tables.rows import longest
from harness.config import UserError

PER_ROW = 4


def gradients(runs: Runs) -> Sheet:
    """Mean ‖ε̂−ε‖ over step × t, a panel per method, one scale of colour for all.

    A cell is the mean over prompts of the mean over seeds, at the kept parameters of the runs with the most
    steps. Raises UserError where no checkpoints are stored.
    """
    frame = runs.of(Gradients).frame
    if frame.empty:
        raise UserError("gradients need the parameters of every evaluated step: sweep with --keep-params")
    frame = longest(frame)
    by_seed = frame.groupby(["method", "prompt", "step", "t"])["mean"].mean()
    mean = by_seed.groupby(["method", "step", "t"]).mean()
    methods = [method for method in runs.methods if method in mean.index.get_level_values("method")]
    columns = min(PER_ROW, len(methods))
    rows = -(-len(methods) // columns)
    caption = f"{counted(frame)}; mean over noise draws, seeds and prompts, per element; front view."
    sheet = chart_of(runs, min(PAGE, 1.0 + 1.75 * max(columns, 2)), 0.5 + 1.75 * rows, caption)
    panels = sheet.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    scale = Normalize(float(mean.min()), float(mean.max()))
    for axes, method in zip(panels.flat, methods, strict=False):
        grid = mean.loc[method].unstack("t")
        step_S, t_T = grid.index.to_numpy(), grid.columns.to_numpy()
        axes.pcolormesh(step_S, t_T, grid.to_numpy().T, norm=scale)
        axes.set_title(method)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(False)
    for axes in list(panels.flat)[len(methods) :]:
        axes.set_axis_off()
    for axes in panels[:, 0]:
        axes.set_ylabel("timestep t")
    for axes in np.ravel(panels)[len(methods) - columns : len(methods)]:
        axes.set_xlabel("step")
        axes.xaxis.set_tick_params(labelbottom=True)
    sheet.colorbar(ScalarMappable(scale), ax=panels, label="mean ‖ε̂ − ε‖", fraction=0.04, pad=0.02)
    return sheet.shows(frame["run"])


class GradientMaps(Figure):
    needs = "stored checkpoints"
    metrics = ("gradients",)
    plot = staticmethod(gradients)
