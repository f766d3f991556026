"""`harness bench coverage`: how often the printed 95 % intervals hold the truth, by simulation. No torch.

A cell is a kind of number, its truth, n prompts and a number of seeds. Each of its studies draws prompts from
a population whose mean is known, and runs of them; the intervals are those of eval/statistics/intervals.py,
called for all studies of a cell at once. The percentile bootstrap stands beside them.

Shape suffixes: T simulated studies, P prompts, S seeds, X checkpoints, B bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from rich.console import Console

from eval.statistics.convergence import (
    _first_crossing,  # the one place that knows where a curve reaches a level
)
from eval.statistics.intervals import (
    Ends,
    difference_interval,
    mean_interval,
    percentile_interval,
    resample,
    share_interval,
    student_interval,
)

PROMPTS = (6, 12, 24, 51, 153)
SEEDS = (1, 2, 5)
RATES = (0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98)
STUDIES = 1000
RESAMPLES = 1000
TRUTH_FROM = 400_000  # prompts that a truth without a formula is the mean of
BAR = 0.93
SHARE = 0.8  # of the baseline's final level, for a ratio
Draw = Callable[[np.random.Generator, tuple[int, int, int]], np.ndarray]  # values [T, P, S] of that shape


@dataclass(frozen=True)
class Case:
    """A row of the table: populations of one truth, and the interval that is printed of their samples.

    `bar` is what the lowest cell is held to; below `BAR` where the table says that it does not hold.
    """

    kind: str
    label: str
    draws: tuple[Draw, ...]
    interval: Callable[[np.ndarray, np.ndarray], Ends]  # of values [T, P, S] and resamples [B, P]
    truth: float | None = None
    bar: float = BAR


# ---- populations


def _rates(rng: np.random.Generator, rate: float, alike: float, shape: tuple[int, ...]) -> np.ndarray:
    """Prompts' own rates: a beta distribution of that mean; the larger `alike`, the less they differ."""
    return rng.beta(alike * rate, alike * (1 - rate), shape) if 0 < rate < 1 else np.full(shape, rate)


# From prompts that hardly differ to prompts of which nearly each is always right or always wrong.
ALIKE = (100.0, 2.0, 0.2)


def hits(rng: np.random.Generator, shape: tuple[int, int, int], rate: float, alike: float) -> np.ndarray:
    """R-Precision of runs: 0 or 1."""
    return (rng.random(shape) < _rates(rng, rate, alike, shape[:2])[..., None]).astype(float)


def views(rng: np.random.Generator, shape: tuple[int, int, int], rate: float) -> np.ndarray:
    """Shares of a run's eight views, which are alike within a run and within a prompt."""
    of_prompt_TP1 = _rates(rng, rate, 2.0, shape[:2])[..., None]
    of_run_TPS = rng.beta(4 * of_prompt_TP1 + 1e-9, 4 * (1 - of_prompt_TP1) + 1e-9, shape)
    return rng.binomial(8, of_run_TPS) / 8


def first_right(
    rng: np.random.Generator, shape: tuple[int, int, int], slow: float, other: float = 1.0
) -> np.ndarray:
    """When a run is right for the first time, a share of N, above 1 for never; prompts differ in difficulty.

    With `other`, [T, P, S, 2]: of two methods on the same prompts, the second so many times as slow.
    """
    hard_TP1 = rng.gamma(1.0, slow, shape[:2])[..., None]
    one = hard_TP1 * rng.exponential(1.0, shape)
    return one if other == 1.0 else np.stack([one, other * hard_TP1 * rng.exponential(1.0, shape)], axis=-1)


def areas(rng: np.random.Generator, shape: tuple[int, int, int], slow: float) -> np.ndarray:
    """Areas under curves of runs that stay right once they are: many are near 1, some are 0."""
    return np.clip(1 - first_right(rng, shape, slow), 0, 1)


def gaps(
    rng: np.random.Generator, shape: tuple[int, int, int], rate: float, gap: float, lost: float, alike: float
) -> np.ndarray:
    """Differences of two methods' hits: a share `lost` of the baseline's hits is lost, and so many of its
    misses are won that the mean difference is `gap`; both shares are prompts' own."""
    won = (gap + rate * lost) / (1 - rate)
    right_TPS = hits(rng, shape, rate, alike) > 0
    lost_TPS = hits(rng, shape, lost, alike) > 0
    won_TPS = hits(rng, shape, won, alike) > 0
    return np.where(right_TPS, -1.0 * lost_TPS, 1.0 * won_TPS)


def area_gaps(rng: np.random.Generator, shape: tuple[int, int, int], slow: float) -> np.ndarray:
    """Differences of areas of two methods on prompts of equal difficulty, one a third slower."""
    both_TPSM = np.clip(1 - first_right(rng, shape, slow, 1.35), 0, 1)
    return both_TPSM[..., 0] - both_TPSM[..., 1]


def skewed(rng: np.random.Generator, shape: tuple[int, int, int], sd: float) -> np.ndarray:
    """Log-normal values between prompts, with a fifth of that on the log scale between runs."""
    return np.exp(sd * (rng.normal(size=shape[:2])[..., None] + 0.2 * rng.normal(size=shape)))


def vendi(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Effective numbers of samples of prompts, 1…5, most of them low; a value has the seeds in it."""
    return np.broadcast_to(1 + 4 * rng.beta(1.2, 4, shape[:2])[..., None], shape)


# ---- intervals


def _share(values_TPS: np.ndarray, counts_BP: np.ndarray) -> Ends:
    _, P, S = values_TPS.shape
    return share_interval(values_TPS.mean(axis=2).T, values_TPS.var(axis=(1, 2)), P * S)


def _gap(values_TPS: np.ndarray, counts_BP: np.ndarray) -> Ends:
    _, P, S = values_TPS.shape
    return difference_interval(values_TPS.mean(axis=2).T, np.square(values_TPS).mean(axis=(1, 2)), P * S)


def _student(values_TPS: np.ndarray, counts_BP: np.ndarray) -> Ends:
    return student_interval(values_TPS.mean(axis=2).T)


def _mean(values_TPS: np.ndarray, counts_BP: np.ndarray) -> Ends:
    return mean_interval(values_TPS.mean(axis=2).T, counts_BP)


def percentiles(values_TPS: np.ndarray, counts_BP: np.ndarray) -> Ends:
    """The percentile bootstrap, for comparison."""
    return percentile_interval(counts_BP @ values_TPS.mean(axis=2).T / values_TPS.shape[1])


CHECKPOINTS = np.linspace(0.1, 1, 10)


def _ratios(times_TPSM: np.ndarray, counts_BP: np.ndarray) -> np.ndarray:
    """[B, T] ratios of the x at which two mean curves reach a level, of resampled prompts."""
    curves_TPMX = (times_TPSM[..., None] <= CHECKPOINTS).mean(axis=2)
    T, P, M, X = curves_TPMX.shape
    means_BTMX = np.tensordot(counts_BP, curves_TPMX, axes=(1, 1)) / P
    baseline, method = (means_BTMX[:, :, which].reshape(-1, X) for which in range(M))
    level = SHARE * baseline[:, -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = _first_crossing(CHECKPOINTS, method, level) / _first_crossing(CHECKPOINTS, baseline, level)
    return ratio.reshape(-1, T)


def _ratio(times_TPSM: np.ndarray, counts_BP: np.ndarray) -> Ends:
    return percentile_interval(_ratios(times_TPSM, counts_BP), n=times_TPSM.shape[1])


def _ratio_percentiles(times_TPSM: np.ndarray, counts_BP: np.ndarray) -> Ends:
    return percentile_interval(_ratios(times_TPSM, counts_BP))


def cases(rates: Sequence[float] = RATES) -> list[Case]:
    """The rows of the table."""

    def several(draw: Callable[..., np.ndarray], **fixed: float) -> tuple[Draw, ...]:
        return tuple(partial(draw, alike=alike, **fixed) for alike in ALIKE)

    rows = [Case("share", f"{rate:g}", several(hits, rate=rate), _share, rate, bar=0.89) for rate in rates]
    rows += [
        Case("share of views", f"{rate:g}", (partial(views, rate=rate),), _share, rate, bar=0.89)
        for rate in (0.2, 0.7, 0.95)
    ]
    rows += [
        Case("area", label, (partial(areas, slow=slow),), _share, bar=0.89)
        for label, slow in (("high", 0.1), ("middle", 0.4), ("low", 1.5))
    ]
    for rate, gap, lost in ((0.9, -0.05, 0.08), (0.9, 0.0, 0.03), (0.5, 0.0, 0.2), (0.3, 0.2, 0.15)):
        label = f"{100 * gap:+g} points at {rate:g}"
        rows.append(
            Case("difference of shares", label, several(gaps, rate=rate, gap=gap, lost=lost), _gap, gap)
        )
    rows.append(Case("difference of areas", "one a third slower", (partial(area_gaps, slow=0.4),), _student))
    rows.append(Case("value", "Vendi, skewed", (vendi,), _mean, bar=0.9))
    rows.append(Case("value", "log-normal, sd .5", (partial(skewed, sd=0.5),), _mean, bar=0.86))
    rows.append(Case("value", "log-normal, sd 1", (partial(skewed, sd=1.0),), _mean, bar=0.75))
    for label, other in (("1.35", 1.35), ("3", 3.0)):
        draw = partial(first_right, slow=0.15, other=other)
        rows.append(Case(f"ratio at {100 * SHARE:.0f} %", label, (draw,), _ratio, bar=0.9))
    return rows


# ---- measuring


def truth_of(case: Case) -> float:
    """The case's truth: by its formula, else the mean of a large sample."""
    if case.truth is not None:
        return case.truth
    sample = case.draws[0](np.random.default_rng(1), (1, TRUTH_FROM, 1))
    if case.interval is _ratio:
        return float(_ratios(sample, np.ones((1, TRUTH_FROM)))[0, 0])
    return float(sample.mean())


def coverage(
    case: Case, prompts: int, seeds: Iterable[int] = SEEDS, studies: int = STUDIES, compare: bool = False
) -> list[float]:
    """How often the interval holds the truth: a share for each population of the case × number of seeds.

    `compare` measures the percentile bootstrap instead.
    """
    truth, found = truth_of(case), []
    interval = case.interval
    if compare:
        interval = _ratio_percentiles if interval is _ratio else percentiles
    if case.interval is _ratio:
        studies = max(1, studies // 4)  # a hundred times the work of the others
    counts_BP = resample(prompts, np.random.default_rng(0), RESAMPLES)
    for place, draw in enumerate(case.draws):
        for count in seeds:
            rng = np.random.default_rng([prompts, count, place])
            low, high = interval(draw(rng, (studies, prompts, count)), counts_BP)
            found.append(float(((low <= truth + 1e-12) & (high >= truth - 1e-12)).mean()))
    return found


COLUMNS = ["kind", "truth", *(f"n = {n}" for n in PROMPTS), "percentile bootstrap, n = 6", "n = 24"]


def run(studies: int = STUDIES, console: Console | None = None) -> bool:
    """Simulate, print the table in Markdown, as docs/protocol.md keeps it; whether every bar is met."""
    console = console or Console()
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * 2 + "---:|" * (len(COLUMNS) - 2)]
    missed = []
    for case in cases():
        own = [coverage(case, n, studies=studies) for n in PROMPTS]
        theirs = [coverage(case, n, studies=studies, compare=True) for n in (6, 24)]
        lines.append("| " + " | ".join([case.kind, case.label, *map(_span, [*own, *theirs])]) + " |")
        lowest = min(map(min, own))
        if lowest < case.bar - 3 * np.sqrt(case.bar * (1 - case.bar) / studies):
            missed.append(f"{case.kind}, {case.label}: {100 * lowest:.0f} %, bar {100 * case.bar:.0f} %")
    for line in [*lines, "", f"{studies} studies a cell", *(f"missed: {text}" for text in missed)]:
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    return not missed


def _span(shares: Sequence[float]) -> str:
    low, high = (f"{100 * end:.0f}" for end in (min(shares), max(shares)))
    return low if low == high else f"{low}–{high}"
