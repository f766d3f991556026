"""Ceilings: what the ground truth, its pictures through the prior, and the prior itself are worth.

A run is an object in a scene, seen through an autoencoder, by the opinion of a prior. Each of the three has a
limit of its own, and a run that falls short of the lowest is short of something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from eval.metrics.r_precision import RPrecision
from eval.metrics.shapes import Shapes
from eval.runs import Runs
from eval.scorers.retrieval import Scorer
from eval.sources.load import RunRecord
from eval.statistics.intervals import paired_difference, share_mean
from eval.tables.controls import NOT_SEEN, SEEN, reference
from eval.tables.rows import by_prompt, longest, rng, share_of
from eval.tables.table import Cell, Table, percent
from harness.config import UserError

BELOW = "below the runs"
Shares = dict[str, dict[int, float]]  # prompt → seed → 0…1


@dataclass(frozen=True)
class _Ceiling:
    """Whose views, scored by majority and one by one, the IoU where there is a solid; `front`: of front views
    only, and held against the runs'."""

    name: str
    majority: Shares
    per_view: Shares
    iou: Shares | None = None
    front: bool = False


def table(runs: Runs) -> Table:
    """What the baseline's runs could be at the most, by R-Precision and shape, less what they are.

    Raises UserError without a baseline, or ground truth.
    """
    base = reference(runs)
    if base is None:
        raise UserError("ceilings are held against uniform_sds, of which there is no run")
    if not runs.truth:
        raise UserError("the prompts have no ground truth; the toy world's have")
    frame = runs.of(RPrecision).frame
    own = longest(frame.loc[frame["method"] == base])
    ids = set(own["run"])
    first = next(run for run in runs if run.run_id in ids)
    theirs, front = _over_seeds(by_prompt(own, "majority")), _front(runs, ids)
    rows: list[list[Cell]] = []
    for found in _ceilings(runs, first, list(theirs)):
        mine = _over_seeds(found.majority)
        gap = paired_difference(mine, front if found.front else theirs, rng(), shares=True)
        verdict = SEEN if gap.low > 0 else BELOW if gap.high < 0 else NOT_SEEN
        rows.append([
            found.name, percent(share_mean(found.majority)), percent(share_mean(found.per_view)),
            percent(share_mean(found.iou)) if found.iou else "–", percent(gap, sign=True), "above 0",
            verdict, len(mine),
        ])  # fmt: skip
    iou = _iou(runs, ids)
    shares = [share_of(own, column) for column in ("majority", "per_view")]
    rows.append([base, *shares, iou, "–", "–", "–", len(theirs)])
    return Table(
        "ceilings",
        ["r_precision", *(["shapes"] if iou != "–" else [])],
        f"Ceilings of {base}: R-Precision and IoU that could be reached, %, less what the runs have",
        ["what", "by majority", "by views", "IoU aligned, %", "less the runs, points", "expected", "verdict",
         "prompts"],
        rows,
        ["Paired by prompt, over the runs' seeds. Seen: the interval is above 0; not seen: no room that "
         "these prompts could show; below the runs: it is on the other side. The prior's samples are front "
         "views, one picture each, and are held against the runs' front views. Fitted: the runs' scene, "
         "cameras, optimiser and steps, with the object's own views as the aim."],
    )  # fmt: skip


def _over_seeds(shares: Shares) -> Shares:
    return {prompt: {0: float(np.mean([*seeds.values()]))} for prompt, seeds in shares.items()}


def _ceilings(runs: Runs, first: RunRecord, prompts: list[str]) -> Iterator[_Ceiling]:
    """Those that there are; why there is none is noted."""
    yield _seen("ground truth", runs, first, {prompt: runs.truth_features[prompt] for prompt in prompts})
    try:
        worn = runs.through_autoencoder(first, prompts)
        yield _seen("ground truth through the autoencoder", runs, first, runs.clip.embed_each(worn))
        if found := runs.fitted(first, prompts):
            shown = runs.clip.embed_each({prompt: each.views_VHWC for prompt, each in found.items()})
            seen = _seen("the scene, fitted to it", runs, first, shown)
            ious = {p: {0: each.aligned_iou} for p, each in found.items() if each.aligned_iou is not None}
            yield replace(seen, iou=ious or None)
    except UserError as error:
        runs.note(f"no ceilings of the prior's: {error}")
    samples = {prompt: runs.prior_features[prompt] for prompt in prompts if prompt in runs.prior_features}
    if samples:
        hits = _singly(runs, first, samples)
        yield _Ceiling("the prior's own samples, front view", hits, hits, front=True)


def _seen(name: str, runs: Runs, first: RunRecord, features: Mapping[str, np.ndarray]) -> _Ceiling:
    """Features [V, D] of pictures in the place of a run's views."""
    scorer, ring = _scorer(runs, first), first.config.views.azimuths
    scores = {
        prompt: scorer.retrieve(rows_VD, ring).score(scorer.pool.index(prompt))
        for prompt, rows_VD in features.items()
    }
    majority = {prompt: {0: score.majority} for prompt, score in scores.items()}
    return _Ceiling(name, majority, {prompt: {0: score.per_view} for prompt, score in scores.items()})


def _singly(runs: Runs, first: RunRecord, features: Mapping[str, np.ndarray]) -> Shares:
    """Whether each picture by itself retrieves its prompt."""
    scorer = _scorer(runs, first)
    return {
        prompt: {
            n: scorer.retrieve(row_D[None], 1).score(scorer.pool.index(prompt)).majority
            for n, row_D in enumerate(rows_ND)
        }
        for prompt, rows_ND in features.items()
    }


def _front(runs: Runs, ids: set[str]) -> Shares:
    """How often a prompt's runs retrieve it by their front view alone; a failed run never."""
    found: dict[str, list[float]] = {}
    for run in runs:
        if run.run_id in ids:
            rows_VD = runs.last_features(run)
            hit = 0.0 if rows_VD is None else _singly(runs, run, {run.prompt: rows_VD[:1]})[run.prompt][0]
            found.setdefault(run.prompt, []).append(hit)
    return {prompt: {0: float(np.mean(hits))} for prompt, hits in found.items()}


def _scorer(runs: Runs, run: RunRecord) -> Scorer:
    if run.suite is None:
        raise UserError("ceilings are of runs of a suite, whose captions are the pool")
    return runs.scorers[run.suite]


def _iou(runs: Runs, ids: set[str]) -> Cell:
    frame = runs.frame_of(Shapes)
    return "–" if frame is None else share_of(frame.loc[frame["run"].isin(ids)], "aligned_iou")
