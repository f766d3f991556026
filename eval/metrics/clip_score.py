"""CLIPScore: how like its prompt a view is to the scorer, whichever open_clip model that is.

100·max(cos, 0) between a view's features and those of the prompt, as captions are read for R-Precision; mean
over the ring. Hessel et al., CLIPScore, EMNLP 2021, have 2.5·max(cos, 0) with ViT-B/32 and the prefix "A
photo depicts": ours is the form that text-to-image and text-to-3D papers print. A cosine depends on the model
and on the words, so it compares methods on equal prompts under one scorer; the floor is the mean over the
pool's other captions.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pandas as pd

from eval.metric import FEATURES, Column, Reference, RunMetric, Values
from eval.sources.load import RunRecord


class CLIPScore(RunMetric):
    """At the last step. Failed runs are left out."""

    title = "CLIPScore"
    columns = (Column("clip_score", "CLIPScore", better="higher"),)
    needs = (FEATURES,)
    on_request = True

    def of_run(self, run: RunRecord) -> Values:
        """The mean over the ring."""
        rows_VD = self.runs.features[run.run_id][0][run.total][: run.config.views.azimuths]
        return {"clip_score": score(rows_VD, self.captions[run.prompt])}

    @cached_property
    def captions(self) -> dict[str, np.ndarray]:
        """Unit features [D] of the prompts."""
        prompts = self.runs.prompts
        return dict(zip(prompts, self.runs.clip.embed_texts(prompts).numpy(), strict=True))

    def references(self) -> list[Reference]:
        """Ground truth, where there is any, and the runs' views beside other captions of their pool."""
        rows = []
        for run_id in self.frame["run"]:
            run = next(run for run in self.runs if run.run_id == run_id)
            assert run.suite is not None
            pool = self.runs.scorers[run.suite]
            others_PD = np.delete(pool.captions_PD, pool.pool.index(run.prompt), axis=0)
            rows_VD = self.runs.features[run_id][0][run.total][: run.config.views.azimuths]
            rows.append(self.runs.about(run) | {"clip_score": score(rows_VD, others_PD)})
        floor = pd.DataFrame(rows)
        ring = self.runs[0].config.views.azimuths
        truth = pd.DataFrame(
            {"prompt": prompt, "seed": 0, "clip_score": score(rows_VD[:ring], self.captions[prompt])}
            for prompt, rows_VD in self.runs.truth_features.items()
        )
        ceiling = self.reference("ground truth (ceiling)", truth)
        return [*ceiling, *self.reference("other captions (floor)", floor)]


def score(rows_VD: np.ndarray, captions_PD: np.ndarray) -> float:
    """100·max(cos, 0), mean over views and captions, both unit rows."""
    return float(100 * np.maximum(rows_VD @ np.atleast_2d(captions_PD).T, 0).mean())
