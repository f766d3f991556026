"""Retrieval of captions: the pool of a suite, the captions that views are most like, and scores of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.scorers.clip import Clip, reader
from harness.config import UserError
from harness.guidance.reading import alike, why_alike
from harness.prompt import normalised
from harness.records import suites


@dataclass(frozen=True)
class Pool:
    """The captions retrieved from: always the whole suite, however few of its prompts were run."""

    name: str
    sha256: str
    prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        if len({normalised(prompt) for prompt in self.prompts}) != len(self.prompts) or not self.prompts:
            raise UserError(f"the pool '{self.name}' is empty or holds a caption twice after normalisation")

    def index(self, prompt: str) -> int:
        """The prompt's place in the pool, compared after normalisation; ValueError where it has none."""
        return [normalised(caption) for caption in self.prompts].index(normalised(prompt))


def load_pool(root: Path, sha256: str) -> Pool:
    """The pool kept in a runs root under the hash of its suite; UserError where it is missing or damaged."""
    kept = suites.read(root, sha256)
    return Pool(kept["name"], kept["sha256"], tuple(kept["prompts"]))


def cut_captions(prompts: Sequence[str], scorers: Sequence[str]) -> list[str]:
    """A line for each scorer to which two captions are the same, or which loses the ends of some."""
    told = []
    for name in scorers:
        each = reader(name)
        pairs = alike([each], prompts)
        cut = [(prompt, lost) for prompt in prompts if (lost := each.lost(prompt))]
        if pairs:
            told.append(f"R-Precision will be refused: scorer {why_alike([each], pairs[0])}")
        elif cut:
            told.append(
                f"scorer {name} reads {each.length} tokens and loses the ends of {len(cut)} captions, "
                f"such as '… {cut[0][1]}' of '{cut[0][0][:40]}…'"
            )
    return told


@dataclass(frozen=True)
class Score:
    """One run at one step: `per_view` is the share of the ring's views, the others are 0 or 1.

    `held_out` is nan where there is no held-out view.
    """

    majority: float
    per_view: float
    mean_sim: float
    held_out: float


MISS = Score(0.0, 0.0, 0.0, 0.0)  # what a failed run scores


@dataclass(frozen=True)
class Retrieval:
    """Indices into the pool that one set of views retrieves: the ring's views, the held-out view if any, then
    the ring by vote and by mean."""

    ring: tuple[int, ...]
    held_out: int | None
    majority: int
    mean_sim: int

    def score(self, target: int) -> Score:
        """1 where what was retrieved is the target."""
        return Score(
            majority=float(self.majority == target),
            per_view=float(np.mean([index == target for index in self.ring])),
            mean_sim=float(self.mean_sim == target),
            held_out=float("nan") if self.held_out is None else float(self.held_out == target),
        )


def retrieve(similarity_VP: np.ndarray, ring: int) -> Retrieval:
    """Retrieval from cosine similarities to P captions of `ring` views, then of a held-out view if any.

    Majority: the caption most views of the ring retrieve; of equally many votes, that of the higher mean
    similarity. Raises ValueError for any other number of views.
    """
    if similarity_VP.ndim != 2 or ring < 1 or len(similarity_VP) - ring not in (0, 1):
        raise ValueError(
            f"expected {ring} views and at most one more, got similarities of {similarity_VP.shape}"
        )
    best_V = [int(index) for index in similarity_VP.argmax(axis=1)]
    mean_P = similarity_VP[:ring].mean(axis=0, dtype=np.float64)
    votes_P = np.bincount(best_V[:ring], minlength=similarity_VP.shape[1])
    tied = np.flatnonzero(votes_P == votes_P.max())
    majority = int(tied[mean_P[tied].argmax()])
    held_out = best_V[ring] if len(best_V) > ring else None
    return Retrieval(tuple(best_V[:ring]), held_out, majority, int(mean_P.argmax()))


@dataclass(frozen=True, eq=False)
class Scorer:
    """A scorer and a pool, its captions embedded once."""

    clip: Clip
    pool: Pool
    captions_PD: np.ndarray

    @classmethod
    def over(cls, clip: Clip, pool: Pool) -> Scorer:
        """Embeds the pool's captions; UserError where two of them are the same to the scorer."""
        if pairs := alike([clip.reader], pool.prompts):
            raise UserError(f"the pool '{pool.name}': scorer {why_alike([clip.reader], pairs[0])}")
        return cls(clip, pool, clip.embed_texts(pool.prompts).numpy())

    def retrieve(self, features_VD: np.ndarray, ring: int) -> Retrieval:
        """Retrieval of one set of views from their unit features."""
        return retrieve(features_VD @ self.captions_PD.T, ring)
