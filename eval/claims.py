"""What the paper claims, and what these runs say to it; the paper's figures are a block of their own.

A claim is tested only by the reading that it was made in; "75 % fewer steps" is a ratio of .25.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from eval.convergence import ratio_to_baseline
from eval.preference.design import STUDIES, load_design
from eval.preference.results import judge_label, people, preference
from eval.preference.votes import judges, load_ballots
from eval.results import by_prompt, convergence_frames, rng
from eval.stats import paired_difference
from eval.study import Study
from eval.tables import Cell, Table, number, percent
from harness.config import UserError

METHOD = "tp_sds"  # the claims are DreamTime's, about TP-SDS


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, where it stands, and the number of ours that speaks to it."""

    says: str
    source: str
    measure: str
    ours: Callable[[Study, str, str], str]


def _ratio(reading: str) -> Callable[[Study, str, str], str]:
    def ours(study: Study, method: str, baseline: str) -> str:
        frames = convergence_frames(study)
        if reading not in frames:
            return "not tested by these runs: it needs several N (--steps 100,200,400)"
        axis, frame = frames[reading]
        return str(number(ratio_to_baseline(frame, method, baseline, rng(), x=axis)))

    return ours


def _preferred(study: Study, method: str, baseline: str) -> str:
    """People's votes where these runs were shown to people, else a judge's."""
    asked = [folder for folder in sorted(study.root.glob(f"{STUDIES}/*")) if (folder / "study.json").exists()]
    by_people = [said for folder in asked if (said := _votes(study, folder, "", method, baseline))]
    by_judges = [
        said
        for folder in asked
        for judge in judges(folder)
        if (said := _votes(study, folder, judge, method, baseline))
    ]
    return "; ".join(by_people or by_judges) or "not tested by these runs: nobody was asked (`harness study`)"


def _votes(study: Study, folder: Path, judge: str, method: str, baseline: str) -> str:
    """What a study's votes say of the two methods; "" where none are about these runs."""
    shown = {side.run for pair in load_design(folder).pairs for side in (pair.a, pair.b)}
    if not shown <= {run.run_id for run in study.runs}:
        return ""
    ballots = load_ballots(folder, judge)
    question = next((name for name in ("overall", *ballots.questions) if name in ballots.questions), "")
    found = preference(ballots, question, method, baseline)
    if found is None:
        return ""
    who = f"{judge_label(ballots)}, no people" if judge else people(found.n_raters)
    return f"{percent(found.both)} % of votes ({who}; {found.n_pairs} pairs, “{question}”, {folder.name})"


def _diversity(study: Study, method: str, baseline: str) -> str:
    try:
        frame = study.diversity
    except UserError:
        return "not tested by these runs: it needs two seeds or more"
    frame = frame.loc[frame["total"] == frame["total"].max()].assign(seed=0)
    ours, theirs = (by_prompt(frame.loc[frame["method"] == name], "distance") for name in (method, baseline))
    if not ours or not theirs:
        return "not tested by these runs: it needs two finished seeds of both methods"
    return str(number(paired_difference(ours, theirs, rng()), 3, sign=True))


CLAIMS = (
    Claim(
        "35 % faster convergence", "attributed to v1, in secondary summaries only",
        "steps to uniform SDS's final R-Precision, ratio, checkpoints of one run (.65)", _ratio("step"),
    ),
    Claim(
        "about 75 % fewer optimisation steps", "v2 (ICLR 2024), text",
        "the same, separate runs with their own N (.25)", _ratio("own N"),
    ),
    Claim(
        "preferred over the baseline by 80.2 % of people", "attributed to v1, in secondary summaries only",
        "win rate over pairs of equal prompt and seed (80.2 %)", _preferred,
    ),
    Claim(
        "more diverse results", "v1 and v2, pictures (figs. 5, 10)",
        "mean pairwise 1 − cos over seeds, difference to uniform SDS (above 0)", _diversity,
    ),
)  # fmt: skip


def claims(study: Study) -> Table:
    """Claim, source, and what the runs say with a 95 % interval, at the scale they were made at."""
    baseline = study.baseline
    if baseline is None or METHOD not in study.methods:
        raise UserError(
            f"the claims are about {METHOD} against uniform_sds; these runs have {', '.join(study.methods)}"
        )
    scale = study.stamp.mark or ", ".join(study.stamp.priors)
    prompts, seeds = len(study.prompts), len(study.seeds)
    rows: list[list[Cell]] = [
        [claim.says, claim.source, claim.measure, claim.ours(study, METHOD, baseline), scale, prompts, seeds]
        for claim in CLAIMS
    ]
    return Table(
        "claims",
        "convergence",
        "Claims about TP-SDS (the paper's words) beside what these runs say [95 % interval]",
        ["claim (paper's)", "source", "measure (paper's figure)", "these runs", "scale", "prompts", "seeds"],
        rows,
        ["The first three columns are the paper's; the fourth is of these runs alone. A toy result neither "
         "confirms nor refutes a claim made for Stable Diffusion."],
    )  # fmt: skip


# R-Precision as published, in per cent; printed as a block of its own by the table `published`.
PUBLISHED = (
    ("Dream Fields", "ViT-B/32", "68.3 ± 2.7", "Jain et al. 2022, one held-out view"),
    ("ground-truth images", "ViT-B/32", "77.1 ± 3.4", "Jain et al. 2022"),
    ("ground-truth images", "ViT-B/16", "79.1 ± 3.3", "Jain et al. 2022"),
    ("DreamFusion, colour", "ViT-B/32", "75.1", "Poole et al. 2023"),
    ("DreamFusion, colour", "ViT-B/16", "77.5", "Poole et al. 2023"),
    ("DreamFusion, colour", "ViT-L/14", "79.7", "Poole et al. 2023"),
    ("DreamFusion, textureless", "ViT-B/32", "42.5", "Poole et al. 2023"),
    ("DreamFusion, textureless", "ViT-B/16", "46.6", "Poole et al. 2023"),
    ("DreamFusion, textureless", "ViT-L/14", "58.5", "Poole et al. 2023"),
)


def published(study: Study) -> Table:
    """R-Precision as papers printed it: another prior, other views, other people's runs."""
    return Table(
        "published",
        None,
        "As published by others, not measured here: R-Precision on Dream Fields' 153 captions, %",
        ["method", "CLIP", "R-Precision", "source"],
        [list(row) for row in PUBLISHED],
    )
