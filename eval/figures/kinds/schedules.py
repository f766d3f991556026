"""W(t) and t(i) of the schedules (fig. 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from eval.figures.figure import Figure
from eval.figures.looks import looks
from eval.figures.style import PAGE, Sheet, chart, few_ticks, handle, legend
from harness.distill.schedules import Density, Order, Schedule, sd_alphas_cumprod

if TYPE_CHECKING:
    from eval.runs import Runs
    from eval.sources.load import RunRecord

TOTAL = 10_000  # N
T_MIN, T_MAX = 20, 980
DOTS = 160  # of the timesteps drawn at random


@dataclass(frozen=True)
class Named:
    """A registered schedule: what it is called, and what of it is written beside the name."""

    weighting: Density
    formula: str
    order: Order = "descending"
    floor: int | None = None

    def over(self, alphas_T: np.ndarray) -> tuple[np.ndarray, Schedule]:
        """W over the noise schedule, [T], and the schedule it makes."""
        weights_T = self.weighting.over(alphas_T, T_MIN, T_MAX)
        return weights_T, Schedule(weights_T, T_MIN, T_MAX, self.order, self.floor)


SCHEDULES = {
    "uniform_sds": Named(Density(), "t at random", order="random"),
    "linear_decay": Named(Density(), "W = 1"),
    "linear_decay:truncated": Named(Density(), "W = 1, t ≥ 200", floor=200),
    "tp_sds": Named(Density("piecewise"), "W piecewise, v1"),
    "tp_sds:iclr": Named(Density("gaussian", snr_weight=True), "W = W_d·W_p"),
    "tp_sds:prior_only": Named(Density("gaussian"), "W_p"),
    "tp_sds:snr_only": Named(Density(snr_weight=True), "W_d"),
}


def logged(runs: Runs | None) -> dict[str, tuple[RunRecord, np.ndarray, np.ndarray]]:
    """Of each method of the runs that is none of `SCHEDULES`: a run, its i/N and its t, as logged."""
    found = {}
    for run in runs or ():
        if run.method in SCHEDULES or run.method in found:
            continue
        rows = [row for row in run.folder.metrics() if isinstance(row.get("t"), int)]
        if len(rows) > 1:
            steps, t = (np.array([row[key] for row in rows]) for key in ("step", "t"))
            found[run.method] = (run, steps / run.total, t)
    return found


def schedules(runs: Runs | None = None) -> Sheet:
    """W(t), scaled to a maximum of 1, and t(i) over i/N, with Stable Diffusion's ᾱ; and t of other methods of
    the runs, as one run of each logged it."""
    w, others = Density(), logged(runs)
    caption = (
        f"Analytic{', and as logged' if others else ', no runs'}. Stable Diffusion's noise schedule, "
        f"t in [{T_MIN}, {T_MAX}], N = {TOTAL}. "
        f"W scaled to its maximum. W_d = √((1−ᾱ)/ᾱ); "
        f"W_p: m {w.m:g}, s {w.s:g}; piecewise: m1 {w.m1:g}, m2 {w.m2:g}, s1 {w.s1:g}, s2 {w.s2:g}."
    )
    sheet = chart(PAGE, 2.9, caption=caption)
    weights, times = sheet.subplots(1, 2)
    alphas_T, look = sd_alphas_cumprod(), looks([*SCHEDULES, *others])
    t_T = np.arange(T_MIN, T_MAX + 1)
    step_I = np.unique(np.linspace(1, TOTAL, 500).round().astype(int))
    entries = []
    for name, named in SCHEDULES.items():
        weights_T, schedule = named.over(alphas_T)
        shown = {"color": look[name].colour, "linestyle": look[name].line}
        label = f"{name}: {named.formula}"
        if named.order == "random":
            rng = np.random.default_rng(0)
            step_D = np.sort(rng.integers(1, TOTAL + 1, DOTS))
            t_D = schedule.timesteps(step_D, TOTAL, rng.random(DOTS))
            times.plot(step_D / TOTAL, t_D, ".", color=look[name].colour, markersize=2.5, alpha=0.5)
            entries.append(handle(label, look[name], linestyle="", marker=".", alpha=0.6))
            continue
        entries.append(handle(label, look[name], marker=""))
        times.plot(step_I / TOTAL, schedule.timesteps(step_I, TOTAL, 0.0), **shown)
        if named.floor is None:
            weights.plot(t_T, weights_T[t_T] / weights_T[t_T].max(), **shown)
    for name, (run, progress_I, t_I) in others.items():
        falls = bool((np.diff(t_I) <= 0).all())
        shown = {"linestyle": look[name].line} if falls else {"linestyle": "", "marker": ".", "markersize": 3}
        times.plot(progress_I, t_I, color=look[name].colour, **shown)
        entries.append(handle(f"{name}: as logged", look[name], marker="" if falls else "."))
        sheet.shows([run.run_id])
    weights.set(title="weight", xlabel="timestep t", ylabel="W(t) / max W", xlim=(0, 1000), ylim=(0, 1.05))
    times.set(title="timestep", xlabel="progress i/N", ylabel="t(i)", xlim=(0, 1), ylim=(0, 1000))
    for axes in (weights, times):
        few_ticks(axes)
    legend(sheet, entries)
    return sheet


class Schedules(Figure):
    needs = ""
    plot = staticmethod(schedules)
