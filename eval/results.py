"""A study's tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from eval.metrics import spectrum
from eval.metrics.r_precision import SCORES
from eval.runs import Study
from eval.sources.load import BASELINE
from eval.statistics import convergence
from eval.statistics.intervals import (
    Interval,
    bootstrap_mean,
    holm,
    paired_difference,
    prompts_to_decide,
    share_mean,
)
from eval.tables.cost import Costs
from eval.tables.table import Cell, Number, Table, number, percent
from harness.config import UserError

SEED = 0  # of the bootstrap: every row sees the same resamples
TITLES = {"majority": "majority", "per_view": "per view", "mean_sim": "mean sim.", "held_out": "held-out"}
SHAPES = {
    "iou": "IoU, %", "aligned_iou": "IoU aligned, %", "f_score": "F-score, %",
    "aligned_f_score": "F-score aligned, %", "silhouette_iou": "silhouette IoU, %",
}  # fmt: skip
SHARES = {*SCORES, *SHAPES, "janus", "false_front_rate", "collapsed", "diverged"}  # columns of values in 0…1
CEILING, FLOOR = "ground truth (ceiling)", "chance (floor)"


def rng() -> np.random.Generator:
    """A fresh generator: equal for every row, so that rows on the same prompts see the same resamples."""
    return np.random.default_rng(SEED)


def by_prompt(frame: pd.DataFrame, column: str) -> dict[str, dict[int, float]]:
    """prompt → seed → value."""
    values: dict[str, dict[int, float]] = {}
    for prompt, seed, value in zip(frame["prompt"], frame["seed"], frame[column], strict=True):
        values.setdefault(prompt, {})[int(seed)] = float(value)
    return values


def mean(frame: pd.DataFrame, column: str) -> Interval:
    """Mean over prompts of the mean over seeds, with its interval; nan where a value is missing."""
    if np.isnan(np.asarray(frame[column], dtype=np.float64)).any():
        return Interval(math.nan, math.nan, math.nan, distinct(frame, "prompt"), len(frame))
    values = by_prompt(frame, column)
    return share_mean(values) if column in SHARES else bootstrap_mean(values, rng())


def distinct(frame: pd.DataFrame, column: str) -> int:
    """How many different values a column has."""
    return len(set(frame[column]))


def counts(frame: pd.DataFrame) -> list[Cell]:
    """n prompts, n seeds, n failed."""
    failed = sum(isinstance(why, str) for why in frame["problem"]) if "problem" in frame else 0
    return [distinct(frame, "prompt"), distinct(frame, "seed"), failed]


def groups(study: Study, frame: pd.DataFrame) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """(method, N, rows), methods in the study's order, N rising."""
    for method in study.methods:
        rows = frame.loc[frame["method"] == method]
        for total in sorted(rows["total"].unique()):
            yield method, int(total), rows.loc[rows["total"] == total]


def r_precision(study: Study) -> Table:
    """R-Precision at each run's last step."""
    final = study.scores.loc[study.scores["final"]]
    rows: list[list[Cell]] = []

    def add(name: str, total: Cell, frame: pd.DataFrame) -> None:
        for pool in sorted(set(frame["pool"])):  # with another pool it is another metric
            own = frame.loc[frame["pool"] == pool]
            rows.append(
                [name, total, *(percent(mean(own, score)) for score in SCORES), *counts(own), int(pool)]
            )

    for method, total, part in groups(study, final):
        add(method, total, part)
        if len(study.geometry):
            add(f"{method}, textureless", total, study.geometry.loc[study.geometry["run"].isin(part["run"])])
    if len(study.ceiling):
        add(CEILING, "–", study.ceiling.assign(seed=0))
    for pool in sorted(set(final["pool"])):
        rows.append([FLOOR, "–", *[Number(1 / pool, scale=100.0)] * len(SCORES), "–", "–", "–", int(pool)])
    columns = ["method", "step", *(TITLES[name] for name in SCORES), "prompts", "seeds", "failed", "pool"]
    return Table(
        "r_precision",
        "r_precision",
        "R-Precision at the final step, % [95 % interval over prompts]",
        columns,
        rows,
    )


def r_precision_steps(study: Study) -> Table:
    """R-Precision by majority vote at every evaluated step of the runs with the most steps."""
    total = max(study.totals)
    frame = study.scores.loc[study.scores["total"] == total]
    rows: list[list[Cell]] = []
    for step in sorted(frame["step"].unique()):
        at = frame.loc[frame["step"] == step]
        cells: list[Cell] = []
        for method in study.methods:
            part = at.loc[at["method"] == method]
            cells.append(percent(mean(part, "majority")) if len(part) else "–")
        rows.append([int(step), *cells])
    title = "R-Precision by majority vote at every evaluated step, %"
    note = [f"Runs of {total} steps."] if len(study.totals) > 1 else []
    return Table("r_precision_steps", "r_precision", title, ["step", *study.methods], rows, note)


def differences(study: Study) -> Table:
    """Every method against the baseline at the same prompts and seeds."""
    baseline = _baseline(study)
    final = study.scores.loc[study.scores["final"]]
    found = {}
    for method, total, part in groups(study, final):
        theirs = final.loc[(final["method"] == baseline) & (final["total"] == total)]
        if method != baseline and len(theirs):
            ours, base = by_prompt(part, "majority"), by_prompt(theirs, "majority")
            found[f"{method} {total}"] = (method, total, paired_difference(ours, base, rng(), shares=True))
    adjusted = holm({name: difference.p_value for name, (_, _, difference) in found.items()})
    rows: list[list[Cell]] = [
        [
            method, total, percent(difference, sign=True), difference.wins, difference.ties,
            difference.losses, Number(difference.p_value, digits=3), Number(adjusted[name], digits=3),
            difference.n_prompts, difference.n_pairs, difference.n_dropped,
        ]
        for name, (method, total, difference) in found.items()
    ]  # fmt: skip
    return Table(
        "differences",
        "r_precision",
        f"Difference to {baseline} at the final step: R-Precision by majority, points [95 % interval]",
        ["method", "step", "difference", "won", "tied", "lost", "p", "p (Holm)", "prompts", "pairs",
         "dropped"],
        rows,
        ["Paired by prompt and seed; won, tied, lost: pairs. p: sign flips over prompts.",
         *power(study)],
    )  # fmt: skip


def power(study: Study) -> list[str]:
    """What these prompts could show at best, as a note: the smallest difference to the baseline that the
    sign-flip test would call after Holm; none without a baseline to compare with."""
    final = study.scores.loc[study.scores["final"]]
    if study.baseline is None or len(study.methods) < 2:
        return []
    compared = set(final.loc[final["method"] == study.baseline, "total"])
    own = [
        part for method, total, part in groups(study, final) if method != study.baseline and total in compared
    ]
    if not own:
        return []
    prompts, seeds = (max(distinct(part, name) for part in own) for name in ("prompt", "seed"))
    needed = prompts_to_decide(len(own))
    said = f"{prompts} prompt{'s' * (prompts > 1)}"
    among = f"among {len(own)} row{'s' * (len(own) > 1)} compared with {study.baseline}"
    if needed > prompts:
        best = min(1.0, len(own) * 2.0 ** (1 - prompts))
        return [
            f"{said} decide{'s' * (prompts == 1)} nothing: {among}, even one that wins on every prompt has "
            f"p (Holm) = {best:.2g}; it takes {needed} prompts"
        ]
    least = 100 * needed / (prompts * seeds)
    return [
        f"{said} can show a difference of {least:.1f} points at the least: {needed} won and none lost have "
        f"p (Holm) ≤ .05 {among}"
    ]


def _baseline(study: Study) -> str:
    if study.baseline is None or len(study.methods) < 2:
        raise UserError(
            f"a comparison needs uniform_sds and another method; these runs have {', '.join(study.methods)}"
        )
    return study.baseline


def convergence_frames(study: Study) -> dict[str, tuple[convergence.Axis, pd.DataFrame]]:
    """Reading → (axis, scores), for the readings that the runs allow.

    step, own N where there are several, and where the methods' steps were timed side by side wall time; NFE
    where methods differ in them, since it is the steps' ratio elsewhere.
    """
    frame = study.scores.rename(columns={"majority": "value"})
    longest = frame.loc[frame["total"] == max(study.totals)]
    readings: dict[str, tuple[convergence.Axis, pd.DataFrame]] = {"step": ("step", longest)}
    if costs := measured_costs(study):
        readings["wall time"] = ("cost", longest.assign(cost=costs.seconds_at(longest)))
        if len(set(costs.nfe.values())) > 1:
            readings["NFE"] = ("cost", longest.assign(cost=costs.evaluations_at(longest)))
    if len(study.totals) > 1:
        readings["own N"] = ("total", frame.loc[frame["final"]])
    return readings


def measured_costs(study: Study) -> Costs | None:
    """What a step of each method costs; None where it was not measured."""
    try:
        return study.costs
    except UserError:
        return None


def convergence_table(study: Study) -> Table:
    """Steps, and seconds, to the baseline's level, and the area under the curve."""
    baseline = _baseline(study)
    costs = measured_costs(study)
    rows: list[list[Cell]] = []
    for reading, (axis, frame) in convergence_frames(study).items():
        if axis == "total":
            continue
        areas = convergence.area_under_curve(frame, rng(), axis, baseline)
        for method in study.methods:
            if method not in areas:
                continue
            cells: list[Cell] = []
            scatter = costs.scatter(method, baseline) if costs and reading == "wall time" else None
            for share in convergence.SHARES:
                if method == baseline:
                    cells.append(Number(1.0, digits=2))
                    continue
                ratio = convergence.ratio_to_baseline(
                    frame, method, baseline, rng(), share, axis, scatter_B=scatter
                )
                cells.append(number(ratio))
            area = areas[method]
            gap = percent(area.difference, sign=True) if area.difference else Number(math.nan)
            if reading == "wall time":  # an interval over prompts alone would leave out the cost's own error
                gap = Number(math.nan)
            rows.append([method, reading, *cells, percent(area), gap, area.n_prompts, area.n_runs])
    try:
        about = f"Wall time: steps × the method's {study.costs.line}."
    except UserError as error:
        about = f"No rows of wall time: {error}."
    return Table(
        "convergence",
        "convergence",
        f"Convergence: x to reach a share of the final R-Precision of {baseline}, as a ratio [95 % interval]",
        ["method", "x", *(f"ratio at {100 * share:.0f} %" for share in convergence.SHARES), "area, %",
         "area − baseline", "prompts", "runs"],
        rows,
        [
            "Below 1 is faster. ∞: the level is not reached (an upper end: in more than 2.5 % of resamples). "
            f"The ratio at {100 * convergence.SHARES[0]:.0f} % is the headline: further up curves are flat "
            "and the ratio can tell next to nothing (docs/protocol.md). step: checkpoints of the runs with "
            f"the most steps; for runs with their own N see own_n. {about}"
        ],
    )  # fmt: skip


def own_n_table(study: Study) -> Table:
    """Runs with their own N: R-Precision at every N, and the N that reach the baseline's level."""
    baseline = _baseline(study)
    totals = study.totals
    if len(totals) < 2:
        raise UserError("runs with their own N need several N: sweep with --steps 100,200,400 or the like")
    final = study.scores.loc[study.scores["final"]].rename(columns={"majority": "value"})
    rows: list[list[Cell]] = []
    for method in study.methods:
        own = final.loc[final["method"] == method]
        cells: list[Cell] = []
        for total in totals:
            part = own.loc[own["total"] == total]
            cells.append(percent(mean(part, "value")) if len(part) else "–")
        reached = [convergence.own_n(final, method, baseline, rng(), share) for share in convergence.SHARES]
        cells += [steps_between(each.method) for each in reached]
        cells.append("1" if method == baseline else ratio_between(reached[0].ratio))
        rows.append([method, *cells, reached[0].n_prompts, reached[0].n_runs])
    shares = [f"{100 * share:.0f} %" for share in convergence.SHARES]
    return Table(
        "own_n",
        "convergence",
        f"Runs with their own N: R-Precision by majority, %, and the N that reach the last of {baseline}",
        ["method", *(f"N = {total}" for total in totals), *(f"N to {share}" for share in shares),
         f"ratio at {shares[0]}", "prompts", "runs"],
        rows,
        [
            f"N to 80 %: between which N of {', '.join(map(str, totals))} the method reaches 80 % of "
            f"{baseline}'s level at N = {totals[-1]}; nothing was run in between. [In brackets: what 95 % of "
            "the resamples of prompts lie within.] The ratio lies between the least and the most both allow."
        ],
    )  # fmt: skip


def steps_between(bracket: convergence.Bracket) -> str:
    """A bracket of N, such as "100–200 [≤ 200]"."""
    return _between(bracket, "{:.0f}".format)


def ratio_between(bracket: convergence.Bracket) -> str:
    """A bracket of a ratio, such as "0.25–1.00 [0.12, ∞]"."""
    return _between(bracket, "{:.2f}".format)


def _between(bracket: convergence.Bracket, one: Callable[[float], str]) -> str:
    def text(low: float, high: float) -> str:
        if low > 0 and math.isinf(high):
            return f"> {one(low)}"
        if math.isinf(high):
            return "any"
        return f"{one(low)}–{one(high)}" if low > 0 else f"≤ {one(high)}"

    inner = text(bracket.low, bracket.high)
    if math.isnan(bracket.outer_low):
        return inner
    return f"{inner} [{text(bracket.outer_low, bracket.outer_high)}]"


def cost_table(study: Study) -> Table:
    """Seconds and denoiser evaluations, per step and per run of the most steps."""
    costs, total = study.costs, max(study.totals)
    rows: list[list[Cell]] = []
    for method in study.methods:
        per_step = costs.seconds(method)
        ratio = costs.ratio(method, study.baseline) if study.baseline else Number(math.nan)
        rows.append(
            [
                method, f"{costs.nfe[method]:g}", replace(per_step, scale=1e3, digits=2),
                replace(ratio, digits=3), f"{costs.nfe[method] * total:g}",
                replace(per_step, scale=total / 60, digits=2),
            ]
        )  # fmt: skip
    return Table(
        "cost",
        "cost",
        "What a step and a run cost [95 % interval over rounds]",
        ["method", "NFE per step", "ms per step", f"ratio to {BASELINE}", f"NFE, {total} steps",
         f"min, {total} steps"],
        rows,
        [f"NFE: denoiser evaluations of a run. {costs.line[0].upper()}{costs.line[1:]}; evaluation views, "
         "logging and checkpoints are left out."],
    )  # fmt: skip


def diversity_table(study: Study) -> Table:
    """Spread over seeds; first the statistic of pairs, which does not depend on how many seeds there are."""
    rows: list[list[Cell]] = []
    frame = study.diversity.assign(seed=0)
    for method, total, part in groups(study, frame):
        rows.append(
            [
                method, total, number(mean(part, "distance"), 3), number(mean(part, "prior_distance"), 3),
                percent(mean(part, "collapsed")), number(mean(part, "vendi")),
                distinct(part, "prompt"), _span(set(part["n_seeds"])),
            ]
        )  # fmt: skip
    vendi = f"Vendi of {frame['vendi_of'].iloc[0]}"
    return Table(
        "diversity",
        "diversity",
        "Diversity over seeds at the final step [95 % interval over prompts]",
        ["method", "step", "1 − cos", "prior's 1 − cos", "collapsed, %", vendi, "prompts", "seeds"],
        rows,
        ["Image features of the same view, mean over views. Collapsed: spread below half of that of the "
         "prior's own samples of the prompt; – without samples. A Vendi score grows with the seeds: "
         f"{vendi} is that of subsets of as many as every prompt has, and compares with no other number. "
         "Failed runs are left out."],
    )  # fmt: skip


def _span(values: Collection[int]) -> str:
    return "–".join(map(str, sorted({min(values), max(values)})))


def signatures_table(study: Study) -> Table:
    """Failure signatures at the last step, how many runs diverged, and how often chance shows Janus."""
    rows: list[list[Cell]] = []
    final = study.scores.loc[study.scores["final"]]
    failed = [run.run_id for run in study.runs if run.failure]
    rings = {run.run_id: run.config.views.azimuths for run in study.runs}
    hits = set(final.loc[final["majority"] == 1, "run"])
    for method, total, part in groups(study, final):
        own = study.signatures.loc[study.signatures["run"].isin(part["run"])]
        sided = own.loc[own["janus"].notna()]
        diverged = part.assign(diverged=part["run"].isin(failed))
        janus: list[Cell] = ["–"] * 7
        if len(sided):
            retrieved = sided.loc[sided["run"].isin(hits)]
            janus = [
                percent(mean(sided, "janus")),
                percent(mean(retrieved, "janus")) if len(retrieved) else "–", len(retrieved),
                percent(mean(sided, "false_front_rate")), number(mean(sided, "peaks")),
                _span({rings[run] for run in sided["run"]}), distinct(sided, "prompt"),
            ]  # fmt: skip
        looks = ("saturation", "contrast", "adjacent")
        cells = [*janus, *(number(mean(own, name), 3) if len(own) else "–" for name in looks)]
        rows.append([method, total, *cells, percent(mean(diverged, "diverged")), *counts(part)[:2]])
    for name, chance in study.janus_floor.items():
        signs = [Number(chance.janus, scale=100.0), "–", "–", Number(chance.false_front_rate, scale=100.0),
                 Number(chance.peaks, digits=2)]  # fmt: skip
        rows.append([f"{name} (floor)", "–", *signs, *["–"] * 8])
    columns = [
        "method", "step", "Janus, %", "of retrieved, %", "retrieved", "false front, %", "front peaks",
        "azimuths", "sided prompts", "saturation", "contrast", "adjacent 1 − cos", "failed, %", "prompts",
        "seeds",
    ]  # fmt: skip
    title = "Failure signatures at the final step [95 % interval over prompts]"
    notes = ["Sided prompts: front and back differ in their ground truth; the signs of Janus are theirs. Of "
             "retrieved: Janus among those runs whose views retrieve their prompt by majority. Floor: what "
             "the same ring of azimuths flags where the prompt is not shown at all."]  # fmt: skip
    return Table("signatures", "janus", title, columns, rows, notes)


def shapes_table(study: Study) -> Table:
    """Shapes at the last step against the solids that the captions describe."""
    if not len(study.shapes):
        raise UserError("shapes need the solids of the prompts, and runs of a field: the toy world has both")
    rows: list[list[Cell]] = []
    for method, total, part in groups(study, study.shapes):
        cells: list[Cell] = [percent(mean(part, name)) for name in SHAPES]
        rows.append([method, total, *cells, number(mean(part, "view_error"), 3), *counts(part)])
    if len(study.shape_floor):
        floor = study.shape_floor
        fits = [percent(mean(floor, name)) for name in list(SHAPES)[:4]]
        rows.append(["another prompt's (floor)", "–", *fits, "–", "–", distinct(floor, "prompt"), "–", "–"])
    return Table(
        "shapes",
        "shapes",
        "Shapes at the final step against ground truth [95 % interval over prompts]",
        ["method", "step", *SHAPES.values(), "view error", "prompts", "seeds", "failed"],
        rows,
        ["Aligned: after the turn about the vertical, the small scale and the shift that fit best. The solid "
         "is the level surface whose outlines are the run's own views'. The ground truth itself has 100."],
    )  # fmt: skip


def spectrum_table(study: Study) -> Table:
    """Radial spectra of renders against real images of the same prompt, at three stages."""
    if not study.reference_spectra:
        raise UserError("spectra need real images of the prompts: ground truth, or --prior-samples 4")
    rows: list[list[Cell]] = []
    frame = study.spectra.loc[study.spectra["prompt"].isin(study.reference_spectra)]
    for method, total, part in groups(study, frame):
        steps = sorted(part["step"].unique())
        for step in dict.fromkeys((steps[0], steps[len(steps) // 2], steps[-1])):
            at = part.loc[part["step"] == step]
            errors = pd.DataFrame(
                [
                    {"prompt": row.prompt, "seed": row.seed, "slope": spectrum.slope(row.power)}
                    | dict(spectrum.band_error(row.power, study.reference_spectra[row.prompt]))
                    for row in at.itertuples()
                ]
            )
            cells = [number(mean(errors, name)) for name in ("slope", "low", "mid", "high", "overall")]
            rows.append([method, total, int(step), *cells, *counts(errors)[:2]])
    slopes = pd.DataFrame(
        [
            {"prompt": prompt, "seed": 0, "slope": spectrum.slope(power)}
            for prompt, power in study.reference_spectra.items()
        ]
    )
    blank = ["–"] * 4
    if len(study.prior_errors):
        errors = study.prior_errors
        cells = [number(mean(errors, name)) for name in ("slope", "low", "mid", "high", "overall")]
        rows.append(["prior's samples (floor)", "–", "–", *cells, *counts(errors)[:1], "–"])
    rows.append(["real images", "–", "–", number(mean(slopes, "slope")), *blank, *counts(slopes)[:1], "–"])
    return Table(
        "spectrum",
        "spectrum",
        "Radial power spectrum against real images: slope, and error in log10 power [95 % interval]",
        ["method", "N", "step", "slope", "low", "mid", "high", "all", "prompts", "seeds"],
        rows,
        ["low, mid, high: thirds of the frequencies up to Nyquist. Real images: ground truth where there is "
         "one, else the prior's own samples. Floor: the prior's own samples against them, or one half of the "
         "samples against the other."],
    )  # fmt: skip
