"""CLIP R-Precision: is a run's own prompt the caption of the pool that its views look most like?

Sources: Dream Fields (Jain et al. 2022): R = 1, cosine, one held-out view; DreamFusion (Poole et al. 2023):
elevation 30°, averaged over azimuths; the vote over views: DreamTime's author's tool. See docs/protocol.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.clip import Clip, normalise, sha256_file
from eval.load import RunRecord
from harness.config import UserError, first_line
from harness.records.files import read_json, write_json

VERSION = 1  # raise it when any number below can change: caches are keyed by it
SCORES = ("majority", "per_view", "mean_sim", "held_out")


@dataclass(frozen=True)
class Pool:
    """The captions retrieved from: always the whole suite, however few of its prompts were run."""

    name: str
    sha256: str
    prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        if len({normalise(prompt) for prompt in self.prompts}) != len(self.prompts) or not self.prompts:
            raise UserError(f"the pool '{self.name}' is empty or holds a caption twice after normalisation")

    def index(self, prompt: str) -> int:
        """The prompt's place in the pool, compared after normalisation; ValueError where it has none."""
        return [normalise(caption) for caption in self.prompts].index(normalise(prompt))


def load_pool(root: Path, sha256: str) -> Pool:
    """The pool kept in a runs root under the hash of its suite; UserError where it is missing or damaged."""
    path = root / "suites" / f"{sha256[:12]}.json"
    try:
        data = json.loads(path.read_bytes())
        return Pool(str(data["name"]), str(data["sha256"]), tuple(data["prompts"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the pool of these runs does not load from {path}: {error}") from error


@dataclass(frozen=True)
class Score:
    """One run at one step: `per_view` is the share of the ring's views, the others are 0 or 1."""

    majority: float
    per_view: float
    mean_sim: float
    held_out: float


MISS = Score(0.0, 0.0, 0.0, 0.0)  # what a failed run scores


@dataclass(frozen=True)
class Retrieval:
    """Indices into the pool that one set of views retrieves: each view, then the ring by vote and by mean."""

    views: tuple[int, ...]  # V, ring first, held-out last
    majority: int
    mean_sim: int

    def score(self, target: int) -> Score:
        """1 where what was retrieved is the target."""
        *ring, held_out = (float(index == target) for index in self.views)
        return Score(
            float(self.majority == target), float(np.mean(ring)), float(self.mean_sim == target), held_out
        )


def retrieve(similarity_VP: np.ndarray) -> Retrieval:
    """Retrieval from cosine similarities of V views (the ring of azimuths, the held-out view) to P captions.

    Majority: the caption most views of the ring retrieve; of equally many votes, that of the higher mean
    similarity. Raises ValueError for fewer than two views.
    """
    if similarity_VP.ndim != 2 or len(similarity_VP) < 2:
        raise ValueError(f"expected similarities of at least two views, got the shape {similarity_VP.shape}")
    best_V = similarity_VP.argmax(axis=1)
    mean_P = similarity_VP[:-1].mean(axis=0, dtype=np.float64)
    votes_P = np.bincount(best_V[:-1], minlength=similarity_VP.shape[1])
    tied = np.flatnonzero(votes_P == votes_P.max())
    majority = int(tied[mean_P[tied].argmax()])
    return Retrieval(tuple(int(i) for i in best_V), majority, int(mean_P.argmax()))


@dataclass(frozen=True, eq=False)
class Scorer:
    """A scorer and a pool, its captions embedded once."""

    clip: Clip
    pool: Pool
    captions_PD: np.ndarray

    @classmethod
    def over(cls, clip: Clip, pool: Pool) -> Scorer:
        """Embeds the pool's captions."""
        return cls(clip, pool, clip.embed_texts(pool.prompts).numpy())

    @property
    def key(self) -> str:
        """12 hex digits over all that a cached number depends on but the views."""
        parts = [
            "r_precision",
            VERSION,
            self.clip.tag,
            self.clip.weights_hash,
            *map(normalise, self.pool.prompts),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    def retrieve(self, images_NVHWC: Sequence[np.ndarray]) -> list[Retrieval]:
        """Retrieval of N sets of V views, uint8 RGB."""
        rows_ND = self.clip.embed_images([image for views in images_NVHWC for image in views]).numpy()
        parts = np.split(rows_ND @ self.captions_PD.T, np.cumsum([len(views) for views in images_NVHWC])[:-1])
        return [retrieve(similarity_VP) for similarity_VP in parts]


def score_run(run: RunRecord, scorer: Scorer) -> tuple[dict[int, Score], dict[int, str]]:
    """Scores at every step with readable views, and the reason at every step whose views could not be read.

    Cached in `<run>/eval/r_precision-<key>.json`; an entry counts only for the view file it came from.
    """
    try:
        target = scorer.pool.index(run.prompt)
    except ValueError:
        return {}, dict.fromkeys(run.view_steps, f"its prompt is not in the pool '{scorer.pool.name}'")
    path = run.path / "eval" / f"r_precision-{scorer.key}.json"
    cached = _read_cache(path)
    found: dict[int, tuple[str, Retrieval]] = {}
    images: dict[int, np.ndarray] = {}
    digests: dict[int, str] = {}
    problems: dict[int, str] = {}
    for step in run.view_steps:
        try:
            digests[step] = sha256_file(run.view_path(step))
            if step in cached and cached[step][0] == digests[step]:
                found[step] = cached[step]
            else:
                images[step] = run.views(step)
        except (
            Exception
        ) as error:  # whatever a damaged picture makes the decoder raise is that run's failure only
            problems[step] = f"views of step {step}: {first_line(error)}"
    if images:
        for step, retrieval in zip(images, scorer.retrieve(list(images.values())), strict=True):
            found[step] = digests[step], retrieval
        _write_cache(path, scorer, found)
    return {step: found[step][1].score(target) for step in sorted(found)}, problems


def _read_cache(path: Path) -> dict[int, tuple[str, Retrieval]]:
    try:
        steps = (read_json(path) or {"steps": {}})["steps"]
        return {
            int(step): (e["digest"], Retrieval(tuple(e["views"]), e["majority"], e["mean_sim"]))
            for step, e in steps.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # a cache that cannot be read is a cache that is not there


def _write_cache(path: Path, scorer: Scorer, found: dict[int, tuple[str, Retrieval]]) -> None:
    entries = {
        str(step): {"digest": digest, "views": list(r.views), "majority": r.majority, "mean_sim": r.mean_sim}
        for step, (digest, r) in sorted(found.items())
    }
    header = {
        "metric": "r_precision",
        "version": VERSION,
        "clip": scorer.clip.tag,
        "weights": scorer.clip.weights_hash,
        "pool": {"name": scorer.pool.name, "sha256": scorer.pool.sha256, "size": len(scorer.pool.prompts)},
    }
    path.parent.mkdir(exist_ok=True)
    write_json(path, header | {"steps": entries})
