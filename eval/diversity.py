"""Diversity across seeds: how different are the results of one prompt?

- Vendi score: exp(−Σ λ log λ) over the eigenvalues λ of K/n, where K holds the cosines of n samples: the
  effective number of different samples, 1 where all are equal, n where all are orthogonal.
  Source: Friedman & Dieng, The Vendi Score, TMLR 2023.
- Mean pairwise distance: 1 − cos over the pairs of samples.

Seeds are compared at the same view, so that the turn of the camera does not count as diversity, and the
numbers are averaged over views.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

VERSION = 1
COLLAPSED_BELOW = 0.5  # of the prior's own spread


@dataclass(frozen=True)
class Diversity:
    """Spread of one prompt's results over its seeds; means over views."""

    vendi: float
    distance: float
    n_seeds: int


def vendi(features_SD: np.ndarray) -> float:
    """Effective number of different samples, 1…S; ValueError unless finite rows, none zero."""
    rows_SD = _unit(features_SD)
    # The eigenvalues of K/n sum to 1; rounding may put one below 0.
    spectrum_S = np.linalg.eigvalsh(rows_SD @ rows_SD.T / len(rows_SD)).clip(min=0)
    positive = spectrum_S[spectrum_S > 0]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def mean_pairwise_distance(features_SD: np.ndarray) -> float:
    """Mean 1 − cos over the pairs of S samples, 0…2; ValueError below two."""
    rows_SD = _unit(features_SD)
    if len(rows_SD) < 2:
        raise ValueError("a distance between samples needs at least two")
    cosines_SS = rows_SD @ rows_SD.T
    return float(1 - cosines_SS[np.triu_indices(len(rows_SD), k=1)].mean())


def of_prompt(features_SVD: np.ndarray) -> Diversity:
    """Spread over S seeds seen at the same V views; ValueError below two seeds."""
    if features_SVD.ndim != 3 or len(features_SVD) < 2 or not features_SVD.shape[1]:
        raise ValueError(
            f"diversity needs at least two seeds of a prompt, got the shape {features_SVD.shape}"
        )
    views = [features_SVD[:, view] for view in range(features_SVD.shape[1])]
    return Diversity(
        vendi=float(np.mean([vendi(rows_SD) for rows_SD in views])),
        distance=float(np.mean([mean_pairwise_distance(rows_SD) for rows_SD in views])),
        n_seeds=len(features_SVD),
    )


def collapsed(distance: float, prior_distance: float, share: float = COLLAPSED_BELOW) -> bool:
    """Whether a prompt's spread over seeds is below `share` of the spread of the prior's own samples of it.

    Both are mean pairwise distances. A flag, not a test: the threshold is a convention of this harness. The
    prior's samples also differ in their camera, which seeds at the same view do not: half leaves room for it.
    False where the prior's spread is unknown (nan).
    """
    return bool(distance < share * prior_distance)


def _unit(features_SD: np.ndarray) -> np.ndarray:
    rows_SD = np.asarray(features_SD, dtype=np.float64)
    lengths = np.linalg.norm(rows_SD, axis=-1, keepdims=True)
    if rows_SD.ndim != 2 or not rows_SD.size or not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ValueError(f"expected finite rows of features, none zero, got the shape {rows_SD.shape}")
    return rows_SD / lengths
