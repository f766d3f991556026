"""Janus: does an object show its front where its back should be?

Every view of the ring is compared, by cosine, with anchors whose azimuth is known, and takes the side of the
nearest: front (less than 90° from azimuth 0), side (90°) or back. The anchors are

- references: features of the prompt's ground truth at the ring's own azimuths; or, where there is none,
- texts: "{prompt}, front view", "…, side view" and "…, back view", at 0°, 90° and 180°.

Two signs of what DreamFusion (Poole et al. 2023) calls the Janus problem; the definitions are ours:

- False front rate: the share of the back half of the ring that is nearest to a front anchor. Views of the
  side and of the front half do not count: from there the front may rightly be seen.
- Front peaks: local maxima around the ring of the front score (the best cosine with a front anchor less the
  best with a back anchor) that are above 0 and stand out by half of the ring's own range. One is right, two
  or more are Janus, none is an object on which nothing stands out. It does not matter which way it is turned.

A run is flagged where it has two or more peaks, or where most of its back half and most of its front half
show the front. An object that merely stands the wrong way round is not flagged.

What the signs cannot tell:

- With references, only a prompt whose front differs from its back is `applicable`: an apple has no Janus.
- With texts, they are as good as the scorer's knowledge of the words, and prompts without a front go
  unnoticed. toy-clip hardly knows the words (tests/eval/test_janus.py measures both ways), so use texts only
  where there is no ground truth, and with a scorer that was checked.
- A render that shows nothing, or another object, takes either side by chance, and the more views a ring has
  the more often it is flagged. `floor` says how often at a study's own ring and prompts. Read the signs
  beside it, and among the runs that retrieve their prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.signal import find_peaks

from eval.metric import FEATURES, Column, Reference, RunMetric, Values
from eval.metrics.r_precision import RPrecision
from eval.sources.load import RunRecord
from eval.tables.rows import distinct, span
from eval.tables.table import Cell, Number
from harness.config import GuidanceConfig
from harness.guidance.views import VIEWS, view_name, view_prompt

TEXT_AZIMUTHS = (0.0, 90.0, 180.0)  # of "front", "side" and "back", the first of VIEWS
MOST = 0.5  # share of a half of the ring
PROMINENCE = 0.5  # of the range of the front score around the ring
RANDOM_RINGS = 64  # per prompt, for the floor
OTHERS = 32  # other objects per prompt, at even whole distances: so many to fewer than twice that
MARGIN = 0.03  # cosine by which the front and the back of a reference must differ


@dataclass(frozen=True)
class Janus:
    """The signs of one ring of views."""

    false_front_rate: float
    peaks: int
    flagged: bool


@dataclass(frozen=True)
class Floor:
    """The mean signs of rings that are not of their prompt."""

    janus: float  # share flagged
    false_front_rate: float
    peaks: float


def view_scores(features_VD: np.ndarray, texts_KD: np.ndarray) -> np.ndarray:
    """Cosines [V, K] of V views with K texts or reference views."""
    views_VD, texts_KD = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for rows in (np.asarray(features_VD, np.float64), np.asarray(texts_KD, np.float64))
    )
    return views_VD @ texts_KD.T


def janus(
    features_VD: np.ndarray,
    texts_KD: np.ndarray,
    azimuths: Sequence[float],
    references_VD: np.ndarray | None = None,
) -> Janus:
    """The signs of V views at rising `azimuths`, in degrees, evenly spaced over 360°.

    `texts_KD`: the prompt with each word of `harness.guidance.views.VIEWS`, in that order; the last one,
    overhead, has no place on the ring and is not used. `references_VD`: ground truth at the same azimuths;
    where it is given, the texts are not looked at. ValueError for other shapes, and for a ring that lacks a
    front or a back half.
    """
    if references_VD is None:
        anchors_KD = texts_KD[: len(TEXT_AZIMUTHS)]
        anchor_halves = _halves(TEXT_AZIMUTHS)
    else:
        anchors_KD, anchor_halves = references_VD, _halves(azimuths)
    halves = _halves(azimuths)
    if len(features_VD) != len(halves) or len(anchors_KD) != len(anchor_halves):
        raise ValueError(
            f"{len(features_VD)} views at {len(halves)} azimuths, "
            f"{len(anchors_KD)} anchors at {len(anchor_halves)}"
        )
    if not {"front", "back"} <= set(halves):
        raise ValueError(f"a ring with a front and a back half is needed, got the azimuths {list(azimuths)}")
    scores_VK = view_scores(features_VD, anchors_KD)
    fronts_V = anchor_halves[scores_VK.argmax(axis=1)] == "front"
    rate = float(fronts_V[halves == "back"].mean())
    peaks = count_peaks(_front_scores(scores_VK, anchor_halves))
    everywhere = rate >= MOST and fronts_V[halves == "front"].mean() >= MOST
    return Janus(rate, peaks, bool(peaks >= 2 or everywhere))


def floor(
    asked: Sequence[tuple[np.ndarray, np.ndarray | None]],
    azimuths: Sequence[float],
    shown: Sequence[Sequence[np.ndarray]] | None = None,
) -> Floor:
    """The signs by chance, mean over prompts, each given by its texts and references as `janus` takes them.

    `shown`: for each prompt the features [V, D] of rings of other objects; by default random directions, of a
    fixed generator.
    """
    rng = np.random.default_rng(0)
    means = []
    for place, (texts_KD, references_VD) in enumerate(asked):
        if shown is None:
            rings = list(rng.normal(size=(RANDOM_RINGS, len(azimuths), texts_KD.shape[-1])))
        else:
            rings = list(shown[place])[:: max(1, len(shown[place]) // OTHERS)]
        signs = [janus(rows_VD, texts_KD, azimuths, references_VD) for rows_VD in rings]
        means.append(np.mean([(one.flagged, one.false_front_rate, one.peaks) for one in signs], axis=0))
    return Floor(*(float(value) for value in np.mean(means, axis=0)))


def applicable(references_VD: np.ndarray, azimuths: Sequence[float]) -> bool:
    """Whether the scorer tells a prompt's front from its back, by ground truth at the ring's azimuths.

    So where the front view is nearer to itself than to any view of the back half, and the back view to itself
    than to any of the front half, by at least `MARGIN`.
    """
    halves = _halves(azimuths)
    scores_V = _front_scores(view_scores(references_VD, references_VD), halves)
    from_front_V = np.abs((np.asarray(azimuths) + 180) % 360 - 180)
    return bool(min(scores_V[from_front_V.argmin()], -scores_V[from_front_V.argmax()]) >= MARGIN)


def count_peaks(scores_V: np.ndarray) -> int:
    """Maxima of a closed ring of scores that are above 0 and stand out by `PROMINENCE` of the scores' range.

    A maximum stands out where the scores fall by that much on both sides before they rise above it.
    """
    need = PROMINENCE * np.ptp(scores_V)
    if need < 1e-9:  # a flat ring, up to rounding
        return 0
    opened = np.roll(scores_V, -int(np.argmin(scores_V)))
    line = np.append(opened, opened[0])  # round the ring from its lowest score back to it
    return int((line[find_peaks(line, prominence=need)[0]] > 0).sum())


def _front_scores(scores_VK: np.ndarray, halves_K: np.ndarray) -> np.ndarray:
    return scores_VK[:, halves_K == "front"].max(axis=1) - scores_VK[:, halves_K == "back"].max(axis=1)


def _halves(azimuths: Sequence[float]) -> np.ndarray:
    """The half of the ring that each azimuth lies in, "front" or "back", or "side" between them."""
    return np.array([view_name(azimuth, 0, front_sector=180) for azimuth in azimuths])


class JanusSigns(RunMetric):
    """Of finished runs; nan where there is no ring, and where a prompt's front and back look alike in its
    ground truth."""

    columns = (
        Column("janus", "Janus, %", "%", "lower"),
        Column("false_front_rate", "false front, %", "%", "lower"),
        Column("peaks", "front peaks"),
    )
    needs = (FEATURES,)
    table = "signatures"
    shown = (("false_front_rate", "false front"), ("peaks", "front peaks"), ("janus", "Janus"))
    remarks = (
        "Sided prompts: front and back differ in their ground truth; the signs of Janus are theirs. Of "
        "retrieved: Janus among those runs whose views retrieve their prompt by majority. Floor: what the "
        "same ring of azimuths flags where the prompt is not shown at all.",
    )

    @property
    def heads(self) -> list[str]:
        """Beside the signs, how many views and prompts they are of, and Janus among the retrieved."""
        return [
            "Janus, %", "of retrieved, %", "retrieved", "false front, %", "front peaks", "azimuths",
            "sided prompts",
        ]  # fmt: skip

    def of_run(self, run: RunRecord) -> Values:
        """The signs of the ring."""
        ring = run.config.views.azimuths
        none: dict[str, float] = {column.key: float("nan") for column in self.columns}
        if ring < 3:
            return none
        azimuths = [360.0 * index / ring for index in range(ring)]
        truth = self.runs.truth_features
        references_VD = truth[run.prompt][:ring] if run.prompt in truth else None
        if references_VD is not None and not applicable(references_VD, azimuths):
            return none
        rows_VD = self.runs.features[run.run_id][0][run.total][:ring]
        signs = janus(rows_VD, self._texts[run.prompt], azimuths, references_VD)
        return {
            "false_front_rate": signs.false_front_rate,
            "peaks": signs.peaks,
            "janus": float(signs.flagged),
        }

    @cached_property
    def _texts(self) -> dict[str, np.ndarray]:
        template = GuidanceConfig.model_fields["view_prompt"].default
        texts = {prompt: [view_prompt(template, prompt, v) for v in VIEWS] for prompt in self.runs.prompts}
        return {prompt: self.runs.clip.embed_texts(each).numpy() for prompt, each in texts.items()}

    @cached_property
    def _hits(self) -> set[str]:
        final = self.runs.of(RPrecision).frame
        return set(final.loc[final["majority"] == 1, "run"])

    def cells(self, part: pd.DataFrame) -> list[Cell]:
        """Of the sided prompts, and of the runs among them that retrieve theirs."""
        sided = part.loc[part["janus"].notna()]
        if not len(sided):
            return ["–"] * len(self.heads)
        retrieved = sided.loc[sided["run"].isin(self._hits)]
        signs = {column.key: column for column in self.columns}
        rings = {run.config.views.azimuths for run in self.runs if run.run_id in set(sided["run"])}
        return [
            signs["janus"].cell(sided),
            signs["janus"].cell(retrieved) if len(retrieved) else "–", len(retrieved),
            signs["false_front_rate"].cell(sided), signs["peaks"].cell(sided),
            span(rings), distinct(sided, "prompt"),
        ]  # fmt: skip

    @cached_property
    def floor(self) -> dict[str, Floor]:
        """What flags runs that are not of their prompt at all, mean over the sided prompts: random features,
        and the ground truth of the suite's other prompts where there is any. {} where no run has a ring.

        Of the rings of these runs; where they differ, of the first.
        """
        ring = next((run.config.views.azimuths for run in self.runs if run.config.views.azimuths > 2), 0)
        sided = dict.fromkeys(self.frame.loc[self.frame["janus"].notna(), "prompt"])
        if not ring or not sided:
            return {}
        azimuths = [360.0 * index / ring for index in range(ring)]
        truth = {prompt: rows_VD[:ring] for prompt, rows_VD in self.runs.truth_features.items()}
        asked = [(self._texts[prompt], truth.get(prompt)) for prompt in sided]
        found = {"random features": floor(asked, azimuths)}
        if len(truth) > 1:
            others = [[rows for other, rows in truth.items() if other != prompt] for prompt in sided]
            found["other prompts' ground truth"] = floor(asked, azimuths, others)
        return found

    def references(self) -> list[Reference]:
        """The floors."""
        return [
            Reference(
                f"{name} (floor)",
                [Number(chance.janus, scale=100.0), "–", "–", Number(chance.false_front_rate, scale=100.0),
                 Number(chance.peaks, digits=2), "–", "–"],
            )
            for name, chance in self.floor.items()
        ]  # fmt: skip
