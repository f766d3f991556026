"""Diversity across seeds: how different are the results of one prompt?

- Mean pairwise distance: 1 − cos over the pairs of samples. Its expectation does not depend on how many there
  are: it comes first.
- Vendi score: exp(−Σ λ log λ) over the eigenvalues λ of K/n, where K holds the cosines of n samples: the
  effective number of different samples, 1 where all are equal, n where all are orthogonal. It grows with n
  whatever is sampled, so it is compared at one n only: of more samples, the mean over their subsets of n.
  Source: Friedman & Dieng, The Vendi Score, TMLR 2023.

Seeds are compared at the same view, so that the turn of the camera does not count as diversity, and the
numbers are averaged over views.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from eval.metric import FEATURES, SEEDS, Column, PromptMetric, Values
from eval.sources.load import RunRecord

SUBSETS = 10_000  # of n samples that are all looked at; of more, so many are drawn
COLLAPSED_BELOW = 0.5  # of the prior's own spread


@dataclass(frozen=True)
class Diversity:
    """Spread of one prompt's results over its seeds; means over views."""

    vendi: float  # of `vendi_of` seeds
    distance: float
    n_seeds: int
    vendi_of: int


def vendi(features_SD: np.ndarray, of: int | None = None) -> float:
    """Effective number of different samples, 1…`of`: the mean over all subsets of `of` samples, by default
    one of all; ValueError unless finite rows, none zero, at least `of` of them.

    Of more than `SUBSETS` subsets so many are drawn, always the same ones.
    """
    rows_SD = _unit(features_SD)
    S, size = len(rows_SD), len(rows_SD) if of is None else of
    if not 1 <= size <= S:
        raise ValueError(f"the Vendi score of {size} among {S} samples")
    if math.comb(S, size) <= SUBSETS:
        subsets_BN = np.array(list(itertools.combinations(range(S), size)))
    else:
        subsets_BN = np.random.default_rng(0).permuted(np.tile(np.arange(S), (SUBSETS, 1)), axis=1)[:, :size]
    cosines_SS = rows_SD @ rows_SD.T
    # The eigenvalues of K/n sum to 1; rounding may put one below 0.
    spectra_BN = np.linalg.eigvalsh(cosines_SS[subsets_BN[:, :, None], subsets_BN[:, None]] / size)
    logs_BN = np.log(spectra_BN, out=np.zeros_like(spectra_BN), where=spectra_BN > 0)
    return float(np.exp(-(spectra_BN.clip(min=0) * logs_BN).sum(axis=1)).mean())


def mean_pairwise_distance(features_SD: np.ndarray) -> float:
    """Mean 1 − cos over the pairs of S samples, 0…2; ValueError below two."""
    rows_SD = _unit(features_SD)
    if len(rows_SD) < 2:
        raise ValueError("a distance between samples needs at least two")
    cosines_SS = rows_SD @ rows_SD.T
    return float(1 - cosines_SS[np.triu_indices(len(rows_SD), k=1)].mean())


def of_prompt(features_SVD: np.ndarray, vendi_of: int | None = None) -> Diversity:
    """Spread over S seeds seen at the same V views, the Vendi score of `vendi_of` of them (default: all);
    ValueError below two seeds."""
    if features_SVD.ndim != 3 or len(features_SVD) < 2 or not features_SVD.shape[1]:
        raise ValueError(
            f"diversity needs at least two seeds of a prompt, got the shape {features_SVD.shape}"
        )
    views = [features_SVD[:, view] for view in range(features_SVD.shape[1])]
    return Diversity(
        vendi=float(np.mean([vendi(rows_SD, vendi_of) for rows_SD in views])),
        distance=float(np.mean([mean_pairwise_distance(rows_SD) for rows_SD in views])),
        n_seeds=len(features_SVD),
        vendi_of=vendi_of or len(features_SVD),
    )


def collapsed(distance: float, prior_distance: float, share: float = COLLAPSED_BELOW) -> float:
    """1 where a prompt's spread over seeds is below `share` of that of the prior's own samples of it, else 0.

    Both are mean pairwise distances. A flag, not a test: the threshold is a convention of this harness. The
    prior's samples also differ in their camera, which seeds at the same view do not: half leaves room for it.
    nan where the prior's spread is unknown.
    """
    return math.nan if math.isnan(prior_distance) else float(distance < share * prior_distance)


def _unit(features_SD: np.ndarray) -> np.ndarray:
    rows_SD = np.asarray(features_SD, dtype=np.float64)
    lengths = np.linalg.norm(rows_SD, axis=-1, keepdims=True)
    if rows_SD.ndim != 2 or not rows_SD.size or not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ValueError(f"expected finite rows of features, none zero, got the shape {rows_SD.shape}")
    return rows_SD / lengths


class SpreadOverSeeds(PromptMetric):
    """At the last step. The Vendi score, which grows with the seeds, is of as many as the prompt with the
    fewest has."""

    version = 2
    caption = "Diversity over seeds at the final step [95 % interval over prompts]"
    columns = (
        Column("distance", "1 − cos", better="higher", digits=3),
        Column("prior_distance", "prior's 1 − cos", digits=3),
        Column("collapsed", "collapsed, %", "%", "lower"),
        Column("vendi", "Vendi of n", better="higher"),
    )
    needs = (FEATURES, SEEDS)
    lacking = "diversity needs at least two seeds of a prompt: sweep with --seeds 0-1 or more"

    @cached_property
    def vendi_of(self) -> int:
        """How many seeds every prompt has."""
        return min(map(len, self.groups.values()), default=0)

    def of_seeds(self, runs: Sequence[RunRecord]) -> Values:
        """The fields of `Diversity`, and the spread of the prior's own samples."""
        features = [rows_VD for run in runs if (rows_VD := self.runs.last_features(run)) is not None]
        spread = of_prompt(np.stack(features), self.vendi_of)
        prior = self.prior_distance.get(runs[0].prompt, math.nan)
        return asdict(spread) | {"prior_distance": prior, "collapsed": collapsed(spread.distance, prior)}

    @cached_property
    def prior_distance(self) -> dict[str, float]:
        """Mean pairwise distance of the prior's own samples of each prompt."""
        return {
            prompt: mean_pairwise_distance(rows_SD)
            for prompt, rows_SD in self.runs.prior_features.items()
            if len(rows_SD) > 1
        }

    @property
    def heads(self) -> list[str]:
        """With the number of seeds that the Vendi score is of."""
        return [*super().heads[:-1], f"Vendi of {self.vendi_of}"]

    def notes(self) -> Sequence[str]:
        """What the columns are."""
        return [
            "Image features of the same view, mean over views. Collapsed: spread below half of that of the "
            "prior's own samples of the prompt; – without samples. A Vendi score grows with the seeds: "
            f"Vendi of {self.vendi_of} is that of subsets of as many as every prompt has, and compares with "
            "no other number. Failed runs are left out."
        ]
