"""Ceilings: what the ground truth, its pictures through the prior, and the prior itself are worth.

A run is an object in a scene, seen through an autoencoder, by the opinion of a prior. Each of the three has a
limit of its own, and a run that falls short of the lowest is short of something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from eval.metrics.r_precision import RPrecision
from eval.metrics.shapes import Shapes
from eval.runs import Runs
from eval.scorers.retrieval import Scorer
from eval.statistics.intervals import paired_difference, share_mean
from eval.tables.controls import FAILED, NOT_SEEN, SEEN, reference
from eval.tables.rows import by_prompt, mean, rng
from eval.tables.table import Cell, Table, percent
from harness.config import UserError

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
    own = frame.loc[(frame["method"] == base) & (frame["total"] == frame["total"].max())]
    theirs = {
        prompt: {0: float(np.mean([*seeds.values()]))} for prompt, seeds in by_prompt(own, "majority").items()
    }
    front = _front(runs, set(own["run"]))
    rows: list[list[Cell]] = []
    for found in _ceilings(runs, base, list(theirs)):
        mine = {prompt: {0: float(np.mean([*seeds.values()]))} for prompt, seeds in found.majority.items()}
        gap = paired_difference(mine, front if found.front else theirs, rng(), shares=True)
        verdict = SEEN if gap.low > 0 else FAILED if gap.high < 0 else NOT_SEEN
        rows.append(
            [
                found.name, percent(share_mean(found.majority)), percent(share_mean(found.per_view)),
                percent(share_mean(found.iou)) if found.iou else "–", percent(gap, sign=True), "above 0",
                verdict, len(mine),
            ]
        )  # fmt: skip
    rows.append(
        [base, percent(mean(own, "majority", share=True)), percent(mean(own, "per_view", share=True)),
         _iou(runs, set(own["run"])), "–", "–", "–", len(theirs)]
    )  # fmt: skip
    return Table(
        "ceilings",
        ["r_precision", "shapes"],
        f"Ceilings of {base}: R-Precision and IoU that could be reached, %, less what the runs have",
        ["what", "by majority", "by views", "IoU aligned, %", "less the runs, points", "expected", "verdict",
         "prompts"],
        rows,
        ["Paired by prompt, over the runs' seeds. Seen: the interval is above 0; not seen: no room that "
         "these prompts could show. The prior's samples are front views, one picture each, and are held "
         "against the runs' front views. Fitted: the runs' scene, cameras, optimiser and steps, with the "
         "object's own views as the aim."],
    )  # fmt: skip


def _ceilings(runs: Runs, base: str, prompts: list[str]) -> Iterator[_Ceiling]:
    yield _seen("ground truth", runs, {prompt: runs.truth[prompt] for prompt in prompts})
    yield _seen("ground truth through the autoencoder", runs, runs.through_autoencoder(prompts))
    first = next(run for run in runs if runs.labels[run.run_id] == base and run.total == max(runs.totals))
    if found := runs.fitted(first.config, prompts):
        seen = _seen(
            "the scene, fitted to it", runs, {prompt: each.views_VHWC for prompt, each in found.items()}
        )
        ious = {
            prompt: {0: each.aligned_iou} for prompt, each in found.items() if each.aligned_iou is not None
        }
        yield _Ceiling(seen.name, seen.majority, seen.per_view, ious or None)
    samples = {prompt: runs.prior_features[prompt] for prompt in prompts if prompt in runs.prior_features}
    if samples:
        hits = _singly(runs, samples)
        yield _Ceiling("the prior's own samples, front view", hits, hits, front=True)


def _seen(name: str, runs: Runs, views: Mapping[str, np.ndarray]) -> _Ceiling:
    """Pictures in the place of a run's views."""
    ring = runs[0].config.views.azimuths
    majority: Shares = {}
    per_view: Shares = {}
    for prompt, images_VHWC in views.items():
        scorer, target = _scorer(runs, prompt)
        score = scorer.retrieve(runs.clip.embed_images(images_VHWC).numpy(), ring).score(target)
        majority[prompt], per_view[prompt] = {0: score.majority}, {0: score.per_view}
    return _Ceiling(name, majority, per_view)


def _singly(runs: Runs, features: Mapping[str, np.ndarray]) -> Shares:
    """Whether each picture by itself retrieves its prompt."""
    found: Shares = {}
    for prompt, rows_ND in features.items():
        scorer, target = _scorer(runs, prompt)
        found[prompt] = {
            n: scorer.retrieve(rows_ND[n : n + 1], 1).score(target).majority for n in range(len(rows_ND))
        }
    return found


def _front(runs: Runs, ids: set[str]) -> Shares:
    """How often a prompt's runs retrieve it by their front view alone; a failed run never."""
    found: dict[str, list[float]] = {}
    for run in runs:
        if run.run_id in ids:
            rows_VD = runs.last_features(run)
            hit = 0.0 if rows_VD is None else _singly(runs, {run.prompt: rows_VD[:1]})[run.prompt][0]
            found.setdefault(run.prompt, []).append(hit)
    return {prompt: {0: float(np.mean(hits))} for prompt, hits in found.items()}


def _scorer(runs: Runs, prompt: str) -> tuple[Scorer, int]:
    suite = next(run.suite for run in runs if run.prompt == prompt and run.suite is not None)
    scorer = runs.scorers[suite]
    return scorer, scorer.pool.index(prompt)


def _iou(runs: Runs, ids: set[str]) -> Cell:
    try:
        frame: pd.DataFrame = runs.of(Shapes).frame
    except UserError:
        return "–"
    own = frame.loc[frame["run"].isin(ids)]
    return percent(mean(own, "aligned_iou", share=True)) if len(own) else "–"
