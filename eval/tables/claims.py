"""What is said of TP-SDS, by its papers or by others about them, and what these runs say to it; and
R-Precision as papers printed it.

"35 %" and "80.2 %" were found in no primary text: a secondary summary says so of v1. "35 % faster" may mean a
speed, which is a ratio of 1/1.35 = .74 in steps, or fewer steps, which is .65: both are printed. Every claim
about steps is read both ways, over the checkpoints of one run and over runs with their own N.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import pandas as pd

from eval.metrics.diversity import SpreadOverSeeds
from eval.metrics.r_precision import RPrecision
from eval.preference.design import STUDIES, load_design
from eval.preference.results import judge_label, people, preference
from eval.preference.votes import judges, load_ballots
from eval.runs import Runs
from eval.statistics.convergence import SHARES, own_n, ratio_to_baseline
from eval.statistics.intervals import paired
from eval.statistics.power import POWERS
from eval.tables import controls
from eval.tables.differences import shown_from
from eval.tables.own_n import ratio_between
from eval.tables.rows import at_common_n, by_prompt, difference, left_out, rng
from eval.tables.table import Cell, Number, Table, number, percent
from harness.config import UserError

METHODS = ("tp_sds", "tp_sds:iclr")  # as v1 and as v2 of the paper define it
LINEAR = "linear_decay"
NOT_TESTED, SUPPORTED, CONTRADICTED, NOT_DECIDED = "not tested", "supported", "contradicted", "not decided"
POWERED = 1 + NormalDist().inv_cdf(POWERS[0]) / NormalDist().inv_cdf(0.975)


class Counts(NamedTuple):
    """What an answer rests on: prompts, seeds of a prompt in the mean, and pairs that one of two lacks."""

    prompts: int
    seeds: float
    dropped: int = 0


@dataclass(frozen=True)
class Answer:
    """What runs say: in words, and as an estimate with its interval, where more is more of what is claimed.

    The three are nan where nothing is said that could decide. `visible`: the smallest effect that these runs
    could have shown with 80 % power, where that can be said.
    """

    text: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    visible: Cell = "–"
    counts: Counts | None = None

    @classmethod
    def of_ratio(
        cls,
        text: str,
        value: float,
        low: float,
        high: float,
        powered: bool = True,
        counts: Counts | None = None,
    ) -> Answer:
        """Of a ratio of steps, where less is more, by its negative logarithm; `powered`: its interval is of a
        sum of many, so that its width says what would be visible."""
        value, low, high = (math.inf if x <= 0 else -math.log(x) for x in (value, low, high))
        half = (low - high) / 2
        visible = f"{math.exp(-POWERED * half):.2f}" if powered and math.isfinite(half) else "–"
        return cls(text, value, high, low, visible, counts)

    @classmethod
    def untested(cls, why: str) -> Answer:
        """Where these runs cannot speak to the claim."""
        return cls(f"{NOT_TESTED} by these runs: {why}")

    def verdict(self, figure: float) -> str:
        """Of a claim of at least `figure`, 0 for one without: supported where the interval leaves 0 out and
        the estimate reaches the figure, contradicted where the interval stays below it, else not decided."""
        if self.text.startswith(NOT_TESTED):
            return NOT_TESTED
        if self.high < figure:
            return CONTRADICTED
        return SUPPORTED if self.low > 0 and self.value >= figure else NOT_DECIDED


Reading = Callable[[Runs, str, str], Answer]  # of a method against the baseline


@dataclass(frozen=True)
class Claim:
    """A sentence, who says it of which version, the number that speaks to it, and how runs are read.

    `figure`: the least that is claimed, as answers count it.
    """

    says: str
    source: str
    measure: str
    readings: Mapping[str, Reading]
    figure: float = 0.0


def _checkpoints(runs: Runs, method: str, baseline: str) -> Answer:
    scores = runs.of(RPrecision).scores.rename(columns={"majority": "value"})
    frame = pd.concat(at_common_n(scores, method, baseline))
    if frame.empty:
        return Answer.untested(_lacking(scores, method, baseline))
    if frame["step"].nunique() < 2:
        return Answer.untested("they were evaluated at their last step alone")
    try:
        found = ratio_to_baseline(frame, method, baseline, rng())
    except UserError as error:
        return Answer.untested(str(error))
    counts = Counts(found.n_prompts, found.n_runs / found.n_prompts, found.n_dropped)
    text = f"{number(found)}{_at_n(runs, frame)}"
    return Answer.of_ratio(text, found.value, found.low, found.high, counts=counts)


def _own_n(runs: Runs, method: str, baseline: str) -> Answer:
    final = runs.of(RPrecision).frame.rename(columns={"majority": "value"})
    frame = final.loc[final["method"].isin([method, baseline])]
    if frame["total"].nunique() < 2:
        return Answer.untested("it needs several N (--steps 100,200,400)")
    try:
        found = own_n(frame, method, baseline, rng())
    except UserError as error:
        return Answer.untested(str(error))
    counts = Counts(found.n_prompts, found.n_runs / found.n_prompts, found.n_dropped)
    ratio = found.ratio
    # The estimate is at most `high`; the brackets' width is the grid's, and says nothing of power.
    return Answer.of_ratio(
        ratio_between(ratio), ratio.high, ratio.outer_low, ratio.outer_high, powered=False, counts=counts
    )


def _lacking(frame: pd.DataFrame, method: str, than: str) -> str:
    """Why two methods without an N in common are not compared."""
    return f"it needs {than} beside {method} at N = {frame.loc[frame['method'] == method, 'total'].max()}"


def _at_n(runs: Runs, frame: pd.DataFrame) -> str:
    """The N of what is compared, where it is not the largest of the runs."""
    n = frame["total"].max()
    return f" at N = {n}" if n < max(runs.totals) else ""


def _better_than(other: str | None) -> Reading:
    """R-Precision at the last step, less another method's, or the baseline's."""

    def answer(runs: Runs, method: str, baseline: str) -> Answer:
        than, frame = other or baseline, runs.of(RPrecision).frame
        ours, theirs = at_common_n(frame, method, than)
        if ours.empty:
            return Answer.untested(_lacking(frame, method, than))
        gap = difference(ours, theirs, "majority", shares=True)
        if gap is None:
            return Answer.untested(f"{method} and {than} have no prompt and seed in common")
        gaps, dropped = paired(by_prompt(ours, "majority"), by_prompt(theirs, "majority"))
        value, low, high = (100 * x for x in (gap.value, gap.low, gap.high))
        text = f"{percent(gap, sign=True)}{_at_n(runs, ours)}"
        counts = Counts(gap.n_prompts, gap.n_pairs / gap.n_prompts, dropped)
        return Answer(text, value, low, high, shown_from(gaps), counts)

    return answer


def _preferred(runs: Runs, method: str, baseline: str) -> Answer:
    """People's votes where these runs were shown to people, else a judge's, which decide nothing."""
    asked = [folder for folder in sorted(runs.root.glob(f"{STUDIES}/*")) if (folder / "study.json").exists()]
    by_people = [found for folder in asked if (found := _votes(runs, folder, "", method, baseline))]
    if len(by_people) == 1:
        return by_people[0]
    by_judges = [
        found
        for folder in asked
        for judge in judges(folder)
        if (found := _votes(runs, folder, judge, method, baseline))
    ]
    if found := by_people or by_judges:
        return Answer(
            "; ".join(each.text for each in found), counts=found[0].counts if len(found) == 1 else None
        )
    return Answer.untested("nobody was asked (`harness study`)")


def _votes(runs: Runs, folder: Path, judge: str, method: str, baseline: str) -> Answer | None:
    """What a study's votes say of the two methods; None where none are about these runs."""
    shown = {side.run for pair in load_design(folder).pairs for side in (pair.a, pair.b)}
    if not shown <= {run.run_id for run in runs}:
        return None
    ballots = load_ballots(folder, judge)
    question = next((name for name in ("overall", *ballots.questions) if name in ballots.questions), "")
    found = preference(ballots, question, method, baseline)
    if found is None:
        return None
    who = f"{judge_label(ballots)}, no people" if judge else people(found.n_raters)
    text = f"{percent(found.both)} % of votes ({who}; {found.n_pairs} pairs, “{question}”, {folder.name})"
    value, low, high = (100 * x - 50 for x in (found.both.value, found.both.low, found.both.high))
    prompts = found.both.n_prompts
    return Answer(text, value, low, high, counts=Counts(prompts, found.n_pairs / prompts))


def _diversity(runs: Runs, method: str, baseline: str) -> Answer:
    frame = runs.frame_of(SpreadOverSeeds)
    if frame is None:
        return Answer.untested("it needs two seeds or more")
    ours, theirs = at_common_n(frame.assign(seed=0), method, baseline)
    found = difference(ours, theirs, "distance")
    if found is None:
        return Answer.untested("it needs two finished seeds of both methods")
    seeds = pd.concat(
        [
            part.loc[part["prompt"].isin(other["prompt"])]["n_seeds"]
            for part, other in ((ours, theirs), (theirs, ours))
        ]
    )
    visible = Number(POWERED * (found.high - found.low) / 2, digits=3)
    text = f"{number(found, 3, sign=True)}{_at_n(runs, ours)}"
    counts = Counts(found.n_prompts, float(seeds.mean()), found.n_dropped)
    return Answer(text, found.value, found.low, found.high, visible, counts)


STEPS = {"checkpoints of one run": _checkpoints, "runs with their own N": _own_n}
LEVEL = f"steps to {100 * SHARES[0]:.0f} % of uniform SDS's final R-Precision, ratio"
LAST = "R-Precision at the last step, difference in points"

CLAIMS = (
    Claim(
        "35 % faster convergence", "a secondary summary, of v1; found in no primary text",
        f"{LEVEL} (.74 if it means speed, .65 if fewer steps)", STEPS, -math.log(1 / 1.35),
    ),
    Claim(
        "about 75 % fewer optimisation steps", "v2 (ICLR 2024), text", f"{LEVEL} (.25)", STEPS,
        -math.log(0.25),
    ),
    Claim(
        "better results than uniform SDS", "v1 and v2, pictures", f"{LAST} (above 0)",
        {"last step": _better_than(None)},
    ),
    Claim(
        "better results than linear decay", "v2 (ICLR 2024), fig. 11", f"{LAST} (above 0)",
        {"last step": _better_than(LINEAR)},
    ),
    Claim(
        "preferred over the baseline by 80.2 % of people",
        "a secondary summary, of v1; found in no primary text",
        "win rate over pairs of equal prompt and seed (80.2 %)", {"votes": _preferred}, 80.2 - 50,
    ),
    Claim(
        "more diverse results", "v1 and v2, pictures (figs. 5, 10)",
        "mean pairwise 1 − cos over seeds, difference to uniform SDS (above 0)", {"last step": _diversity},
    ),
)  # fmt: skip


def table(runs: Runs) -> Table:
    """Claim, who says it, what the runs say with a 95 % interval, and what that decides at their scale."""
    baseline = runs.baseline
    methods = [name for name in METHODS if name in runs.methods]
    if baseline is None or not methods:
        raise UserError(
            f"the claims are about {' and '.join(METHODS)} against uniform_sds; these runs have "
            f"{', '.join(runs.methods)}"
        )
    scale = runs.stamp.mark or ", ".join(runs.stamp.priors)
    held = controls.held(runs)
    rows: list[list[Cell]] = []
    dropped: dict[str, int] = {}
    made: dict[tuple[Reading, str], Answer] = {}  # two claims are read off the same numbers
    for claim in CLAIMS:
        for method in methods:
            for reading, ours in claim.readings.items():
                if (ours, method) not in made:
                    made[ours, method] = ours(runs, method, baseline)
                found = made[ours, method]
                verdict = found.verdict(claim.figure)
                if found.counts:
                    counts: list[Cell] = [found.counts.prompts, f"{found.counts.seeds:.3g}"]
                    dropped[f"{claim.says} ({method}, {reading})"] = found.counts.dropped
                else:
                    counts = [len(runs.prompts), len(runs.seeds)] if verdict == NOT_TESTED else ["–", "–"]
                rows.append([
                    claim.says, claim.source, claim.measure, method, reading, found.text, verdict,
                    found.visible, held, scale, *counts,
                ])  # fmt: skip
    return Table(
        "claims",
        ["convergence", "r_precision", "diversity"],
        "Claims about TP-SDS, by who makes them, beside what these runs say [95 % interval]",
        ["claim", "who says so", "measure (figure claimed)", "method", "reading", "these runs", "verdict",
         "visible from", "controls", "scale", "prompts", "seeds"],
        rows,
        ["The first three columns are other people's; the others are of these runs alone. Supported: the "
         "interval leaves no effect out, and the estimate reaches the figure claimed, the laxer where there "
         "are two. Contradicted: the interval stays short of that figure. A judge's votes decide nothing of "
         f"people. Visible from: the effect that these runs would tell from none with {POWERS[0]:.0%} power. "
         "tp_sds has v1's schedule, tp_sds:iclr v2's. A toy result neither confirms nor refutes a claim made "
         "for Stable Diffusion.", *left_out(dropped)],
    )  # fmt: skip


# R-Precision as published, in per cent, ± one standard error of the mean; a block of its own, the table
# `published`.
PUBLISHED = (
    ("Dream Fields", "ViT-B/32", "68.3 ± 2.7 (s.e.)", "Jain et al. 2022, one held-out view"),
    ("ground-truth images", "ViT-B/32", "77.1 ± 3.4 (s.e.)", "Jain et al. 2022"),
    ("ground-truth images", "ViT-B/16", "79.1 ± 3.3 (s.e.)", "Jain et al. 2022"),
    ("DreamFusion, colour", "ViT-B/32", "75.1", "Poole et al. 2023"),
    ("DreamFusion, colour", "ViT-B/16", "77.5", "Poole et al. 2023"),
    ("DreamFusion, colour", "ViT-L/14", "79.7", "Poole et al. 2023"),
    ("DreamFusion, textureless", "ViT-B/32", "42.5", "Poole et al. 2023"),
    ("DreamFusion, textureless", "ViT-B/16", "46.6", "Poole et al. 2023"),
    ("DreamFusion, textureless", "ViT-L/14", "58.5", "Poole et al. 2023"),
)


def published(runs: Runs) -> Table:
    """R-Precision as papers printed it: another prior, other views, other people's runs."""
    return Table(
        "published",
        [],
        "As published by others, not measured here: R-Precision on Dream Fields' 153 captions, %",
        ["method", "CLIP", "R-Precision", "source"],
        [list(row) for row in PUBLISHED],
        ["± (s.e.): one standard error of the mean; a 95 % interval reaches about twice as far."],
    )
