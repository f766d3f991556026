"""What is said of TP-SDS, by its papers or by others about them, and what these runs say to it.

"35 %" and "80.2 %" were found in no primary text: a secondary summary says so of v1. "35 % faster" may mean a
speed, which is a ratio of 1/1.35 = .74 in steps, or fewer steps, which is .65: both are printed. Every claim
about steps is read both ways, over the checkpoints of one run and over runs with their own N.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from eval.metrics.diversity import SpreadOverSeeds
from eval.preference.design import STUDIES, load_design
from eval.preference.results import judge_label, people, preference
from eval.preference.votes import judges, load_ballots
from eval.runs import Runs
from eval.statistics.convergence import SHARES, own_n, ratio_to_baseline
from eval.statistics.intervals import paired_difference
from eval.tables.convergence import convergence_frames
from eval.tables.own_n import ratio_between
from eval.tables.rows import by_prompt, rng
from eval.tables.table import Cell, Table, number, percent
from harness.config import UserError

METHODS = ("tp_sds", "tp_sds:iclr")  # as v1 and as v2 of the paper define it
NOT_TESTED = "not tested by these runs: "


@dataclass(frozen=True)
class Claim:
    """A sentence, who says it of which version, the number that speaks to it, and how runs are read."""

    says: str
    source: str
    measure: str
    readings: Mapping[str, Callable[[Runs, str, str], str]]


def _checkpoints(runs: Runs, method: str, baseline: str) -> str:
    frames = convergence_frames(runs)
    if "step" not in frames:
        return f"{NOT_TESTED}they were evaluated at their last step alone"
    axis, frame = frames["step"]
    return str(number(ratio_to_baseline(frame, method, baseline, rng(), x=axis)))


def _own_n(runs: Runs, method: str, baseline: str) -> str:
    frames = convergence_frames(runs)
    if "own N" not in frames:
        return f"{NOT_TESTED}it needs several N (--steps 100,200,400)"
    return ratio_between(own_n(frames["own N"][1], method, baseline, rng()).ratio)


def _preferred(runs: Runs, method: str, baseline: str) -> str:
    """People's votes where these runs were shown to people, else a judge's."""
    asked = [folder for folder in sorted(runs.root.glob(f"{STUDIES}/*")) if (folder / "study.json").exists()]
    by_people = [said for folder in asked if (said := _votes(runs, folder, "", method, baseline))]
    by_judges = [
        said
        for folder in asked
        for judge in judges(folder)
        if (said := _votes(runs, folder, judge, method, baseline))
    ]
    return "; ".join(by_people or by_judges) or f"{NOT_TESTED}nobody was asked (`harness study`)"


def _votes(runs: Runs, folder: Path, judge: str, method: str, baseline: str) -> str:
    """What a study's votes say of the two methods; "" where none are about these runs."""
    shown = {side.run for pair in load_design(folder).pairs for side in (pair.a, pair.b)}
    if not shown <= {run.run_id for run in runs}:
        return ""
    ballots = load_ballots(folder, judge)
    question = next((name for name in ("overall", *ballots.questions) if name in ballots.questions), "")
    found = preference(ballots, question, method, baseline)
    if found is None:
        return ""
    who = f"{judge_label(ballots)}, no people" if judge else people(found.n_raters)
    return f"{percent(found.both)} % of votes ({who}; {found.n_pairs} pairs, “{question}”, {folder.name})"


def _diversity(runs: Runs, method: str, baseline: str) -> str:
    try:
        frame = runs.of(SpreadOverSeeds).frame
    except UserError:
        return f"{NOT_TESTED}it needs two seeds or more"
    frame = frame.loc[frame["total"] == frame["total"].max()].assign(seed=0)
    ours, theirs = (by_prompt(frame.loc[frame["method"] == name], "distance") for name in (method, baseline))
    if not ours or not theirs:
        return f"{NOT_TESTED}it needs two finished seeds of both methods"
    return str(number(paired_difference(ours, theirs, rng()), 3, sign=True))


STEPS = {"checkpoints of one run": _checkpoints, "runs with their own N": _own_n}
LEVEL = f"steps to {100 * SHARES[0]:.0f} % of uniform SDS's final R-Precision, ratio"

CLAIMS = (
    Claim(
        "35 % faster convergence", "a secondary summary, of v1; found in no primary text",
        f"{LEVEL} (.74 if it means speed, .65 if fewer steps)", STEPS,
    ),
    Claim("about 75 % fewer optimisation steps", "v2 (ICLR 2024), text", f"{LEVEL} (.25)", STEPS),
    Claim(
        "preferred over the baseline by 80.2 % of people",
        "a secondary summary, of v1; found in no primary text",
        "win rate over pairs of equal prompt and seed (80.2 %)", {"votes": _preferred},
    ),
    Claim(
        "more diverse results", "v1 and v2, pictures (figs. 5, 10)",
        "mean pairwise 1 − cos over seeds, difference to uniform SDS (above 0)", {"last step": _diversity},
    ),
)  # fmt: skip


def table(runs: Runs) -> Table:
    """Claim, who says it, and what the runs say with a 95 % interval, at the scale they were made at."""
    baseline = runs.baseline
    methods = [name for name in METHODS if name in runs.methods]
    if baseline is None or not methods:
        raise UserError(
            f"the claims are about {' and '.join(METHODS)} against uniform_sds; these runs have "
            f"{', '.join(runs.methods)}"
        )
    scale = runs.stamp.mark or ", ".join(runs.stamp.priors)
    prompts, seeds = len(runs.prompts), len(runs.seeds)
    rows: list[list[Cell]] = [
        [claim.says, claim.source, claim.measure, method, reading, ours(runs, method, baseline), scale,
         prompts, seeds]
        for claim in CLAIMS
        for method in methods
        for reading, ours in claim.readings.items()
    ]  # fmt: skip
    return Table(
        "claims",
        ["convergence", "r_precision", "diversity"],
        "Claims about TP-SDS, by who makes them, beside what these runs say [95 % interval]",
        ["claim", "who says so", "measure (figure claimed)", "method", "reading", "these runs", "scale",
         "prompts", "seeds"],
        rows,
        ["The first three columns are other people's; “these runs” is of these runs alone. tp_sds has v1's "
         "schedule, tp_sds:iclr v2's. A toy result neither confirms nor refutes a claim made for Stable "
         "Diffusion."],
    )  # fmt: skip
