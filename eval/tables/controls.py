"""Controls: differences that any valid setting must show, and differences that none may.

Positive ones are facts of the field: a run that sees one small timestep only, no guidance, W's order turned
round, a quarter of the steps, and a prior with noise on its last weights are worse, and one large timestep
leaves less detail. Negative ones have no
difference by construction: a method against itself with other seeds, and captions that belong to other runs.
A comparison that finds nothing is worth something only where the first are seen and the second are not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal, get_args

import pandas as pd
from pydantic import TypeAdapter, ValidationError
from scipy.stats import binomtest
from typing_extensions import TypedDict

from eval.metrics.r_precision import RPrecision
from eval.metrics.spectrum import Spectrum, log_power
from eval.runs import Runs
from eval.statistics.intervals import Difference, share_mean
from eval.tables.rows import at_common_n, difference, longest, mean
from eval.tables.table import Cell, Number, Table, number, percent
from harness.config import UserError
from harness.records.files import read_json, write_cache
from harness.records.rows import Row

KEPT = "eval/controls.json"
HELD = "controls of this setting"
ALPHA = 0.05  # of the A/A comparisons
Verdict = Literal["seen", "not seen", "FAILED"]
SEEN, NOT_SEEN, FAILED = get_args(Verdict)


@dataclass(frozen=True)
class Outcome:
    """What a control came to: its number, what is expected of it, and a verdict."""

    found: Number
    expected: str
    verdict: Verdict
    n: str


@dataclass(frozen=True)
class Control:
    """A sentence that must hold, who says so, and the runs' number; None where these runs have not got it."""

    says: str
    source: str
    measure: str
    outcome: Callable[[Runs, str], Outcome | None]  # of runs, and the row that it is held against


def reference(runs: Runs) -> str | None:
    """The row that controls are held against: the baseline, of the largest guidance scale, with the prior as
    it is; None if none."""
    rows = [row for row in runs.rows.values() if runs.base(row.name) == row.name and not _perturbed(row)]
    return max(rows, key=lambda row: dict(row.at).get("cfg_scale", 0.0)).name if rows else None


def _perturbed(row: Row) -> float:
    """How much noise there is on the prior's last weights."""
    return dict(row.at).get("perturb", 0.0)


def _below(found: Difference, shown: Number) -> Outcome:
    verdict = SEEN if found.high < 0 else FAILED if found.low > 0 else NOT_SEEN
    dropped = f", {found.n_dropped} left out" * bool(found.n_dropped)
    return Outcome(shown, "below 0", verdict, f"{found.n_pairs} pairs{dropped}")


def _worse(runs: Runs, row: str | None, than: str | None) -> Outcome | None:
    """R-Precision of one row less another's, of the largest N that both have."""
    if row is None or than is None or row == than:
        return None
    return _lower(*at_common_n(runs.of(RPrecision).frame, row, than))


def _lower(ours: pd.DataFrame, theirs: pd.DataFrame) -> Outcome | None:
    found = difference(ours, theirs, "majority", shares=True)
    return None if found is None else _below(found, percent(found, sign=True))


def _of_baseline(variant: str) -> Callable[[Runs, str], Outcome | None]:
    return lambda runs, base: _worse(runs, runs.beside(base, f"uniform_sds:{variant}"), base)


def _reversed(runs: Runs, base: str) -> Outcome | None:
    return _worse(runs, runs.beside(base, "tp_sds:reversed"), runs.beside(base, "tp_sds"))


def _unguided(runs: Runs, base: str) -> Outcome | None:
    for row in runs.rows.values():
        if row.method == runs.rows[base].method and dict(row.at).get("cfg_scale") == 1:
            return _worse(runs, row.name, base)
    return None


def _short(runs: Runs, base: str) -> Outcome | None:
    frame = runs.of(RPrecision).frame
    own = frame.loc[frame["method"] == base]
    few = own.loc[own["total"] * 4 <= own["total"].max()]
    return _lower(longest(few), longest(own))


def _disturbed(runs: Runs, base: str) -> Outcome | None:
    """The baseline with most noise on the prior's last weights; less noise must do less harm."""
    at = {key: value for key, value in runs.rows[base].at if key != "perturb"}
    rows = [
        row
        for row in runs.rows.values()
        if row.method == runs.rows[base].method and {k: v for k, v in row.at if k != "perturb"} == at
    ]
    rows.sort(key=_perturbed)
    found = _worse(runs, rows[-1].name, base)
    if found is None or not _perturbed(rows[-1]):
        return None
    frame = runs.of(RPrecision).frame
    most, _ = at_common_n(frame, rows[-1].name, base)
    frame = frame.loc[frame["total"] == most["total"].iloc[0]]
    parts = [frame.loc[frame["method"] == row.name] for row in rows]
    levels = [mean(part, "majority").value for part in parts if len(part)]
    if found.verdict == SEEN and levels != sorted(levels, reverse=True):
        return replace(found, expected="below 0, in order", verdict=NOT_SEEN)
    return replace(found, expected="below 0, in order")


def _less_detail(runs: Runs, base: str) -> Outcome | None:
    """Power in the upper third of the frequencies at t = 900, less the baseline's, in log10."""
    row = runs.beside(base, "uniform_sds:t=900")
    if row is None:
        return None
    frame = runs.of(Spectrum).frame
    frame = frame.loc[frame["step"] == frame["total"]]
    detail = [float(log_power(power_K[2 * len(power_K) // 3 :].mean())) for power_K in frame["power"]]
    ours, theirs = at_common_n(frame.assign(detail=detail), row, base)
    found = difference(ours, theirs, "detail")
    return None if found is None else _below(found, number(found, 2, sign=True))


def _alike(runs: Runs, base: str) -> Outcome | None:
    """Share of A/A comparisons with p ≤ .05: every row's seeds against its other seeds, two by two."""
    frame = runs.of(RPrecision).frame
    p_values = []
    for _, part in frame.groupby(["method", "total"]):
        of_seed = {seed: own for seed, own in part.groupby("seed")}
        for one, other in combinations(of_seed, 2):
            ours, theirs = (of_seed[seed].assign(seed=0) for seed in (one, other))
            if found := difference(ours, theirs, "majority", shares=True):
                p_values.append(found.p_value)
    if not p_values:
        return None
    called = sum(p <= ALPHA for p in p_values)
    exact = binomtest(called, len(p_values))
    ends = exact.proportion_ci(method="exact")
    surely_more = binomtest(called, len(p_values), ALPHA, alternative="greater").pvalue <= ALPHA
    shown = Number(called / len(p_values), float(ends.low), float(ends.high), scale=100.0)
    verdict = FAILED if surely_more else SEEN
    return Outcome(shown, f"at most {100 * ALPHA:.0f}", verdict, f"{len(p_values)} comparisons")


def _shuffled(runs: Runs, base: str) -> Outcome | None:
    """How often the reference's views retrieve the caption of the next prompt in the suite."""
    hits, chance = dict[str, dict[int, float]](), 0.0
    for run in runs:
        features = runs.last_features(run)
        is_reference = runs.labels[run.run_id] == base and run.total == max(runs.totals)
        if not is_reference or run.suite is None or features is None:
            continue
        scorer = runs.scorers[run.suite]
        other = (scorer.pool.index(run.prompt) + 1) % len(scorer.pool.prompts)
        score = scorer.retrieve(features, run.config.views.azimuths).score(other)
        hits.setdefault(run.prompt, {})[len(hits.get(run.prompt, {}))] = score.majority
        chance = 1 / len(scorer.pool.prompts)
    if len(hits) < 2:
        return None
    found = share_mean(hits)
    verdict = FAILED if found.low > max(chance, ALPHA) else SEEN
    return Outcome(percent(found), f"about {100 * chance:.1f}", verdict, f"{found.n_runs} runs")


DIFFERENCE = "R-Precision, difference in points"
CONTROLS = (
    Control("one small timestep, t = 100, fails", "DreamTime, fig. 14", DIFFERENCE, _of_baseline("t=100")),
    Control("one large timestep, t = 900, lacks detail", "DreamTime, fig. 14",
            "log10 power above two thirds of Nyquist, difference", _less_detail),
    Control("W in rising order is worse than falling", "DreamTime, fig. 4", DIFFERENCE, _reversed),
    Control("no guidance, CFG 1, is worse", "DreamFusion, §3", DIFFERENCE, _unguided),
    Control("a quarter of the steps is worse", "by construction", DIFFERENCE, _short),
    Control("noise on the prior's last weights is worse, in its order", "by construction", DIFFERENCE,
            _disturbed),
    Control("a method is itself with other seeds", "by construction", "A/A comparisons with p ≤ .05, %",
            _alike),
    Control("another prompt's caption is not retrieved", "by construction", "R-Precision, %", _shuffled),
)  # fmt: skip


def outcomes(runs: Runs) -> Iterator[tuple[Control, Outcome | None]]:
    """Every control, what fails first, then what was not seen, seen, and not run."""
    base = reference(runs)
    found = [(control, None if base is None else control.outcome(runs, base)) for control in CONTROLS]
    order = [FAILED, NOT_SEEN, SEEN]
    yield from sorted(found, key=lambda each: order.index(each[1].verdict) if each[1] else len(order))


def table(runs: Runs) -> Table:
    """Every control with its number, what is expected, and the verdict; kept for other runs of the setting.

    Raises UserError where the runs hold none of the positive ones.
    """
    if runs.baseline is None:
        raise UserError("controls are held against uniform_sds, of which there is no run")
    found = list(outcomes(runs))
    if not any(outcome and outcome.expected.startswith("below 0") for _, outcome in found):
        raise UserError("no control among these runs; `harness reproduce controls` runs them")
    rows: list[list[Cell]] = []
    for control, outcome in found:
        verdict = outcome.verdict if outcome else "not run"
        numbers = [outcome.found, outcome.expected, outcome.n] if outcome else ["–"] * 3
        rows.append([control.says, verdict, control.measure, *numbers, control.source])
    _keep(runs, found)
    return Table(
        "controls",
        ["r_precision", "spectrum"],
        "Controls: what these runs must show, and must not",
        ["control", "verdict", "measure", "found", "expected", "n", "source"],
        rows,
        ["Seen: the interval is on the expected side, or a negative control finds nothing. Not seen: these "
         "runs are too few, or this setting cannot show it. FAILED: the opposite."],
    )  # fmt: skip


class _Kept(TypedDict):
    """What the controls of a folder came to, and what they are controls of."""

    scorer: str
    priors: list[str]
    settings: list[str]
    verdicts: dict[str, Verdict]


_KEPT = TypeAdapter(_Kept)


def _keep(runs: Runs, found: Sequence[tuple[Control, Outcome | None]]) -> None:
    base = reference(runs)
    kept: _Kept = {
        "scorer": runs.clip.weights_hash,
        "priors": _priors(runs),
        "settings": sorted({run.config_hash for run in runs if runs.labels[run.run_id] == base}),
        "verdicts": {control.says: outcome.verdict for control, outcome in found if outcome},
    }
    write_cache(runs.root / KEPT, json.dumps(kept, indent=1, ensure_ascii=False).encode())


def _priors(runs: Runs) -> list[str]:
    return sorted({run.prior_hash for run in runs if run.prior_hash})


def told(runs: Runs) -> list[str]:
    """Of controls of this setting (prior, scorer, configuration) in this folder or one beside it: what fails,
    a line each, then how many hold; none where there are none."""
    here = runs.root.resolve()
    lines = []
    for folder in sorted({here, *(path.parents[1] for path in here.parent.glob(f"*/{KEPT}"))}):
        try:
            kept = _KEPT.validate_python(read_json(folder / KEPT))
        except (ValidationError, UserError):  # none, or no file of ours
            continue
        settings = {run.config_hash for run in runs}
        if (kept["scorer"], kept["priors"]) != (runs.clip.weights_hash, _priors(runs)):
            continue
        if not settings & set(kept["settings"]):
            continue
        verdicts = kept["verdicts"]
        lines += [f"control FAILED ({folder.name}): {says}" for says, v in verdicts.items() if v == FAILED]
        held = sum(verdict == SEEN for verdict in verdicts.values())
        lines.append(f"{HELD} ({folder.name}): {held} of {len(verdicts)} hold")
    return lines


def held(runs: Runs) -> str:
    """How many controls of this setting hold, such as "6 of 8 hold", in this folder before those beside it;
    "not run" where there are none."""
    found = [line for line in told(runs) if line.startswith(HELD)]
    own = [line for line in found if line.startswith(f"{HELD} ({runs.root.resolve().name}): ")]
    return (own or found)[0].rpartition(": ")[2] if found else "not run"
