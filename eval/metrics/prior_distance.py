"""Distance to the prior's own samples: are a method's front views what its prior would have drawn?

X_p are the front views (azimuth 0°) of a method's runs of prompt p at the last step, one per seed; Y_p the
prior's own DDIM samples of the same prompt, front view too (`eval.sources.samples`). Both as unit image
features of the scorer. μ is the mean of a kernel's features; all but Fréchet are unbiased.

- CMMD: 1000·‖E_p(μ(X_p) − μ(Y_p))‖² with k = exp(−‖x − y‖²/(2·10²)). Kernel and factor are those of
  Jayasumana et al., Rethinking FID, CVPR 2024, whose features are those of ViT-L/14 at 336 pixels and whose
  estimator is biased. On unit features it is nearly the distance of the means.
- KID: the same without the factor and with k = (1 + x·y)³, which also sees spread and skew. It is the kernel
  of Bińkowski et al., Demystifying MMD GANs, ICLR 2018, on features of length √D.
- KID by prompt: E_p‖μ(X_p) − μ(Y_p)‖², which compares every prompt's seeds with that prompt's samples: a
  method that always finds the mode differs from its prior here, however right its pictures are. It wants two
  seeds and two samples.
- Fréchet: ‖m_X − m_Y‖² + tr(Σ_X + Σ_Y − 2(Σ_X Σ_Y)^½). Source: Heusel et al., GANs Trained by a Two
  Time-Scale Update Rule, NeurIPS 2017, there on Inception features. It is biased upwards, the more the fewer
  the images, so it is always of one image a prompt against n − 1 samples a prompt: the mean over seeds and
  over the sample that is left out. The floor has the same sizes: the sample that is left out against the
  others.

Images of one prompt are no independent draws, so no pair of one prompt enters CMMD and KID, and intervals are
over prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np
import pandas as pd

from eval.metric import FEATURES, PRIOR_SAMPLES, Column, Metric
from eval.sources.load import RunRecord
from eval.statistics.intervals import jackknife_interval
from eval.tables.rows import distinct, groups
from eval.tables.table import Cell, Number, Table

Features = Mapping[str, np.ndarray]  # prompt → unit rows [n, D]
Kernel = Callable[[np.ndarray], np.ndarray]  # of cosines
SIGMA, SCALE = 10.0, 1000.0  # Jayasumana et al. 2024
FRONT = 0  # the view of the ring that the samples are asked for


def gaussian(cosines: np.ndarray) -> np.ndarray:
    """CMMD's kernel, of the cosines of unit features, with its factor."""
    return SCALE * np.exp((cosines - 1) / SIGMA**2)


def cubic(cosines: np.ndarray) -> np.ndarray:
    """KID's kernel, of the cosines of unit features."""
    return (1 + cosines) ** 3


def discrepancies(found: Features, real: Features, kernel: Kernel) -> np.ndarray:
    """[P, P]: unbiased estimates of ⟨μ(X_p) − μ(Y_p), μ(X_q) − μ(Y_q)⟩, prompts in the order of `found`; on
    the diagonal nan where p has a single image on either side."""
    x, y = found, {prompt: real[prompt] for prompt in found}
    cross_PP = _block_means(x, y, kernel)
    return _block_means(x, x, kernel) + _block_means(y, y, kernel) - cross_PP - cross_PP.T


def _block_means(a: Features, b: Features, kernel: Kernel) -> np.ndarray:
    """Mean kernel of the rows of p in `a` with those of q in `b`, [P, P]; where both are one, over pairs of
    different rows."""
    rows_ND, rows_MD = (np.concatenate(list(each.values())).astype(np.float64) for each in (a, b))
    kernel_NM = kernel(rows_ND @ rows_MD.T)
    if a is b:
        np.fill_diagonal(kernel_NM, 0)
    starts = [np.cumsum([0, *(len(rows) for rows in each.values())])[:-1] for each in (a, b)]
    sums_PP = np.add.reduceat(np.add.reduceat(kernel_NM, starts[0], 0), starts[1], 1)
    n_P, m_P = (np.array([len(rows) for rows in each.values()], dtype=np.float64) for each in (a, b))
    pairs_PP = np.outer(n_P, m_P) - (np.diag(n_P) if a is b else 0)
    return np.divide(sums_PP, pairs_PP, out=np.full_like(sums_PP, np.nan), where=pairs_PP > 0)


def over_suite(blocks_PP: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean of `discrepancies` over pairs of different prompts, and that without each of P ≥ 3 prompts."""
    P = len(blocks_PP)
    off_PP = np.where(np.eye(P, dtype=bool), 0, blocks_PP)
    without_P = off_PP.sum() - off_PP.sum(0) - off_PP.sum(1)
    return float(off_PP.sum() / (P * (P - 1))), without_P / ((P - 1) * (P - 2))


def frechet(a_ND: np.ndarray, b_MD: np.ndarray) -> float:
    """Fréchet distance of the Gaussians of two sets of at least two features each.

    (Σ_a Σ_b)^½ has the trace of the singular values of A Bᵀ, where A and B are roots of Σ_a and Σ_b: there is
    no root of a matrix that few images leave singular.
    """
    means, roots = [], []
    for rows in (np.asarray(each, np.float64) for each in (a_ND, b_MD)):
        means.append(rows.mean(0))
        roots.append(np.linalg.qr((rows - means[-1]) / np.sqrt(len(rows) - 1), mode="r"))
    shared = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    spread = sum(np.square(root).sum() for root in roots)
    return float(np.square(means[0] - means[1]).sum() + spread - 2 * shared)


def leave_one_out(real_PND: np.ndarray, found_PKD: np.ndarray | None = None) -> float:
    """Mean Fréchet distance of the k-th image of every prompt to all samples but the j-th, over j and k; by
    default of the j-th samples themselves."""
    distances = []
    for j in range(real_PND.shape[1]):
        rest_MD = np.delete(real_PND, j, axis=1).reshape(-1, real_PND.shape[2])
        shown_PKD = real_PND[:, j : j + 1] if found_PKD is None else found_PKD
        distances += [frechet(shown_PKD[:, k], rest_MD) for k in range(shown_PKD.shape[1])]
    return float(np.mean(distances))


class PriorDistance(Metric):
    """Numbers of a method's runs together; failed runs and unreadable views are left out."""

    caption = "Distance of front views to the prior's own samples [95 % interval over prompts]"
    columns = (
        Column("cmmd", "CMMD", better="lower", digits=3),
        Column("kid", "KID", better="lower", digits=3),
        Column("by_prompt", "KID by prompt", better="lower", digits=3),
        Column("frechet", "Fréchet", better="lower", digits=3),
    )
    needs = (FEATURES, PRIOR_SAMPLES)
    on_request = True
    remarks = (
        "CMMD and KID are unbiased and may be below 0; all are of the scorer's features and compare with no "
        "published number. KID by prompt wants two seeds. Fréchet grows with fewer images: read it beside "
        "its floor, a sample of the prior for each prompt against the others.",
    )

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per finished run of a prompt that has samples: run, method, prompt, seed, total."""
        self.check()
        runs = [run for run in self.runs if self.runs.last_features(run) is not None]
        rows = [self.runs.about(run) for run in runs if run.prompt in self.real]
        if not rows:
            raise self._nothing("no finished run has readable views and samples of its prompt")
        return pd.DataFrame(rows)

    @cached_property
    def real(self) -> dict[str, np.ndarray]:
        """Unit features [n, D] of the prior's own images of each prompt."""
        return self.runs.prior_features

    def cells(self, part: pd.DataFrame) -> list[Cell]:
        """The four distances of some runs."""
        found = {
            str(prompt): np.stack([self._front(run) for run in own["run"]])
            for prompt, own in part.sort_values("seed").groupby("prompt", sort=True)
        }
        return [*self._kernels(found, self.real), self._frechet(found)]

    @cached_property
    def _by_id(self) -> dict[str, RunRecord]:
        return {run.run_id: run for run in self.runs}

    def _front(self, run: str) -> np.ndarray:
        features_VD = self.runs.last_features(self._by_id[run])
        assert features_VD is not None
        return features_VD[FRONT]

    def _kernels(self, found: Features, real: Features) -> list[Cell]:
        cells: list[Cell] = []
        for column, kernel in zip(self.columns, (gaussian, cubic), strict=False):
            blocks_PP = discrepancies(found, real, kernel)
            if len(found) < 3:
                cells.append("–")
                continue
            value, without_P = over_suite(blocks_PP)
            cells.append(Number(value, *jackknife_interval(value, without_P), digits=column.digits))
        own = pd.DataFrame({"prompt": list(found), "seed": 0, "by_prompt": np.diag(blocks_PP)})
        return [*cells, self.columns[2].cell(own)]

    def _frechet(self, found: Features | None = None) -> Cell:
        """Of some runs, or of the samples themselves."""
        prompts = list(self.real if found is None else found)
        samples = min(len(self.real[prompt]) for prompt in prompts)
        if len(prompts) < 3 or samples < 2:
            return "–"
        real_PND = np.stack([self.real[prompt][:samples] for prompt in prompts])
        sets = [real_PND]
        if found is not None:
            seeds = min(len(rows) for rows in found.values())
            sets.append(np.stack([rows[:seeds] for rows in found.values()]))
        value = leave_one_out(*sets)
        without_P = [leave_one_out(*(np.delete(each, p, 0) for each in sets)) for p in range(len(prompts))]
        ends = jackknife_interval(value, np.array(without_P))
        return Number(value, *ends, digits=self.columns[3].digits)

    def own_table(self) -> Table:
        """A row per method and N, then the prior's own samples."""
        rows: list[list[Cell]] = [
            [method, total, *self.cells(part), distinct(part, "prompt"), distinct(part, "seed")]
            for method, total, part in groups(self.runs, self.frame)
        ]
        halves = [{p: rows[start::2] for p, rows in self.real.items()} for start in (0, 1)]
        if all(len(rows) > 1 for rows in self.real.values()):
            kernels = self._kernels(*halves)
            rows.append(["prior's samples (floor)", "–", *kernels, self._frechet(), len(self.real), "–"])
        heads = ["method", "N", *self.heads, "prompts", "seeds"]
        return Table(self.name, [self.name], self.caption, heads, rows, self.notes())
