"""What a step costs, by method: seconds measured side by side, and denoiser evaluations (NFE). No torch.

A run's own clock is no measure of its method: runs advance in packs, at whatever else the machine did then,
and each is charged its pack's time. So `harness bench methods` times steps of all methods in turn, in one
process, and a run's wall time is its steps times that. In each round a method's time is divided by that of a
reference in the same round; what slows the machine for a while cancels. Values are medians over rounds, their
intervals those of the bootstrapped median.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from eval.sources.load import BASELINE, DAMAGED, RunRecord
from eval.statistics.intervals import RESAMPLES, percentile_interval
from eval.tables.table import Cell, Number, Table
from harness.config import UserError
from harness.records.costs import SideBySide, read_costs

if TYPE_CHECKING:
    from eval.runs import Runs

VERSION = 1
HOW = "`harness bench methods RUNS`, on the machine that made the runs, measures it"


class Costs:
    """Measured costs of these methods, by their names in tables."""

    def __init__(
        self, measured: SideBySide, keys: Mapping[str, str], evaluations: Mapping[str, float] | None = None
    ):
        self.measured = measured
        self.nfe = {name: measured.methods[key].nfe for name, key in keys.items()} | dict(evaluations or {})
        seconds = {name: np.array(measured.methods[key].seconds) for name, key in keys.items()}
        reference_K = seconds.get(BASELINE, next(iter(seconds.values())))
        self.rounds = len(reference_K)
        rounds_BK = np.random.default_rng(0).integers(self.rounds, size=(RESAMPLES, self.rounds))
        self._reference_B = _medians(reference_K, rounds_BK)
        self._shares_B = {name: _medians(own_K / reference_K, rounds_BK) for name, own_K in seconds.items()}

    def seconds(self, method: str) -> Number:
        """Seconds per run and step."""
        return _number(self._shares_B[method] * self._reference_B)

    def ratio(self, method: str, baseline: str) -> Number:
        """Seconds of a step of the method / of the baseline."""
        return _number(self._ratios_B(method, baseline))

    def scatter(self, method: str, baseline: str) -> np.ndarray:
        """[RESAMPLES] factors around 1: by how much a resample of the rounds moves `ratio`."""
        ratios_B = self._ratios_B(method, baseline)
        return ratios_B[1:] / ratios_B[0]

    def _ratios_B(self, method: str, baseline: str) -> np.ndarray:
        return self._shares_B[method] / self._shares_B[baseline]

    def seconds_at(self, frame: pd.DataFrame) -> np.ndarray:
        """Seconds of a run up to each row's step; columns method and step."""
        per_step = {name: self.seconds(name).value for name in self.nfe}
        return frame["step"].to_numpy() * np.array([per_step[name] for name in frame["method"]])

    def evaluations_at(self, frame: pd.DataFrame) -> np.ndarray:
        """Denoiser evaluations of a run up to each row's step; columns method and step."""
        return frame["step"].to_numpy() * np.array([self.nfe[name] for name in frame["method"]])

    @property
    def line(self) -> str:
        """Where, how and how often it was measured."""
        one = self.measured
        threads = f", {one.threads} threads" if one.device == "cpu" else ""
        return (
            f"seconds per step: {self.rounds} rounds of all methods in turn, a pack of {one.pack}, on "
            f"{one.machine}{threads}"
        )


def costs_of(runs: Sequence[RunRecord], labels: Mapping[str, str], kept: Iterable[SideBySide]) -> Costs:
    """The last measurement that holds every method of these runs, with the evaluations that these counted;
    UserError where there is none."""
    keys = {labels[run.run_id]: run.cost_key for run in runs}
    for measured in kept:
        if measured.methods.keys() >= set(keys.values()):
            return Costs(measured, keys, counted(runs, labels))
    raise UserError(f"wall time was not measured for all of these methods side by side; {HOW}")


def counted(runs: Iterable[RunRecord], labels: Mapping[str, str]) -> dict[str, float]:
    """Denoiser evaluations per step, by method, as its runs logged them; means over runs."""
    found: dict[str, list[float]] = {}
    for run in runs:
        last = run.folder.metrics()[-1:] if run.status != DAMAGED else []
        per_step = [row["nfe"] / row["step"] for row in last if "nfe" in row]
        found.setdefault(labels[run.run_id], []).extend(per_step)
    return {name: float(np.mean(values)) for name, values in found.items() if values}


def _medians(values_K: np.ndarray, rounds_BK: np.ndarray) -> np.ndarray:
    """[1 + B]: the median, then those of the resampled rounds."""
    return np.r_[np.median(values_K), np.median(values_K[rounds_BK], axis=1)]


def _number(values_B: np.ndarray) -> Number:
    if len(np.unique(values_B)) == 1:
        return Number(float(values_B[0]))
    low, high = percentile_interval(values_B[1:])
    return Number(float(values_B[0]), float(low), float(high))


def costs(runs: Runs) -> Costs:
    """What a step of each method costs; UserError where it was not measured."""
    return costs_of(runs, runs.labels, read_costs(runs.root))


def measured_costs(runs: Runs) -> Costs | None:
    """What a step of each method costs; None where it was not measured."""
    try:
        return runs.of(costs)
    except UserError:
        return None


def table(runs: Runs) -> Table:
    """Seconds and denoiser evaluations, per step and per run of the most steps."""
    found, total = runs.of(costs), max(runs.totals)
    rows: list[list[Cell]] = []
    for method in runs.methods:
        per_step = found.seconds(method)
        ratio = found.ratio(method, base) if (base := runs.base(method)) else Number(math.nan)
        rows.append([
            method, f"{found.nfe[method]:g}", replace(per_step, scale=1e3, digits=2),
            replace(ratio, digits=3), f"{found.nfe[method] * total:g}",
            replace(per_step, scale=total / 60, digits=2),
        ])  # fmt: skip
    return Table(
        "cost",
        ["cost"],
        "What a step and a run cost [95 % interval over rounds]",
        ["method", "NFE per step", "ms per step", f"ratio to {BASELINE}", f"NFE, {total} steps",
         f"min, {total} steps"],
        rows,
        [f"NFE: denoiser evaluations of a run. {found.line[0].upper()}{found.line[1:]}; evaluation views, "
         "logging and checkpoints are left out."],
    )  # fmt: skip
