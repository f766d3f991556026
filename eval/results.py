"""A study's tables."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import numpy as np
import pandas as pd

from eval import convergence, spectrum
from eval.r_precision import SCORES
from eval.stats import Interval, bootstrap_mean, holm, paired_difference, prompts_to_decide, share_mean
from eval.study import Study
from eval.tables import Cell, Number, Table, number, percent
from harness.config import UserError

SEED = 0  # of the bootstrap: every row sees the same resamples
TITLES = {"majority": "majority", "per_view": "per view", "mean_sim": "mean sim.", "held_out": "held-out"}
SHARES = {*SCORES, "janus", "false_front_rate", "collapsed", "diverged"}  # columns of values in 0…1
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
    """Reading → (axis, scores as eval.convergence takes them), for the readings that the runs allow."""
    frame = study.scores.rename(columns={"majority": "value"})
    longest = frame.loc[frame["total"] == max(study.totals)]
    readings: dict[str, tuple[convergence.Axis, pd.DataFrame]] = {"step": ("step", longest)}
    # Other people's renders carry no clock, and runs that failed at once have none.
    if (longest["time"] > 0).any() and longest.loc[longest["value"] > 0, "time"].notna().all():
        readings["wall time"] = ("time", longest)
    if len(study.totals) > 1:
        readings["own N"] = ("total", frame.loc[frame["final"]])
    return readings


def convergence_table(study: Study) -> Table:
    """Steps to the baseline's level, and the area under the curve."""
    baseline = _baseline(study)
    rows: list[list[Cell]] = []
    for reading, (axis, frame) in convergence_frames(study).items():
        areas = convergence.area_under_curve(frame, rng(), axis, baseline)
        for method in study.methods:
            if method not in areas:
                continue
            cells: list[Cell] = []
            for share in (1.0, 0.95):
                if method == baseline:
                    cells.append(Number(1.0, digits=2))
                    continue
                ratio = convergence.ratio_to_baseline(frame, method, baseline, rng(), share, axis)
                cells.append(number(ratio))
            area = areas[method]
            gap = percent(area.difference, sign=True) if area.difference else Number(math.nan)
            rows.append([method, reading, *cells, percent(area), gap, area.n_prompts, area.n_runs])
    return Table(
        "convergence",
        "convergence",
        f"Convergence: x to reach the final R-Precision of {baseline}, as a ratio [95 % interval]",
        ["method", "x", "ratio", "ratio at 95 %", "area, %", "area − baseline", "prompts", "runs"],
        rows,
        [
            "Below 1 is faster. ∞: the level is not reached (an upper end: in more than 2.5 % of resamples). "
            "step: checkpoints of the runs with the most steps. own N: separate runs, each with its own "
            "number of steps, which is what a schedule tied to N calls for. Wall time: a run's in its pack."
        ],
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
