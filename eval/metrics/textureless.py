"""Textureless renders: the shape alone, shaded grey, as DreamFusion scores beside its coloured views.

The scene at the run's last step is rendered at image resolution; albedo is white, shading is
.1 + .9·max(0, n·l) with normals n from the density and a light l that stands over the camera. Colours cannot
be seen in them: where captions have solids, what is retrieved is the caption without its colours, from those
of the suite.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property

import numpy as np
import pandas as pd
import torch

from eval.metric import FEATURES, PARAMETERS, RunMetric, Values
from eval.metrics.r_precision import COLUMNS
from eval.scorers.clip import Clip
from eval.scorers.features import cache_key, file_features
from eval.scorers.retrieval import MISS, Pool, Score, Scorer
from eval.sources.load import RunRecord
from harness.config import UserError
from harness.objects.final import Final, NoSides, load
from harness.records.files import strip, tiles, write_cache
from harness.scene.cameras import Cameras, evaluation, rays

RENDERS = 1  # version of the pictures
AMBIENT, DIFFUSE = 0.1, 0.9  # DreamFusion, appendix A.2


def textureless_features(run: RunRecord, clip: Clip) -> np.ndarray | None:
    """Unit features [V, D] of the textureless renders; None where it has no sides.

    The renders are kept as `<run>/eval/textureless-v<version>.png`, a strip of tiles of the views' size.
    """
    path = run.folder.eval / f"textureless-v{RENDERS}.png"
    name = str(path.relative_to(run.path))
    if not run.folder.made_after_result(name):
        images_VHWC = textureless(run, run.views(run.total).shape[1])
        if images_VHWC is None:
            return None
        write_cache(path, strip(images_VHWC))
        if not path.is_file():
            return clip.embed_images(images_VHWC).numpy()
    cache = run.folder.eval / f"textureless-{cache_key(clip)}.safetensors"

    def content(step: int) -> bytes:
        return run.folder.picture(name)

    found, _ = file_features(cache, [run.total], content, lambda step: tiles(content(step)), clip)
    return found.get(run.total)


@torch.no_grad()
def textureless(run: RunRecord, side: int) -> np.ndarray | None:
    """Grey renders at the evaluation cameras, [V, side, side, 3] uint8; None where it has no sides."""
    try:
        final = load(run.folder)
    except NoSides:
        return None
    cameras = evaluation(run.config.views)
    return np.stack([_shade(final, cameras[v : v + 1], side) for v in range(len(cameras))])


def _shade(final: Final, camera: Cameras, side: int) -> np.ndarray:
    seen = final.scene.surface(final.params, camera, side)
    hit_P = seen.opacity_P > 0.05
    normals_P3 = final.scene.normals(final.params, seen.points_P3[None])[0]
    light_3 = -rays(camera, side, side)[1][0].mean(0) + torch.tensor([0.0, 0.0, 1.0])
    shade_P = AMBIENT + DIFFUSE * (normals_P3 @ (light_3 / light_3.norm())).clamp(min=0)
    backdrop_3 = torch.tensor(final.scene.cfg.background_rgb)
    alpha_P1 = (seen.opacity_P * hit_P)[:, None]
    image_P3 = alpha_P1 * shade_P[:, None] + (1 - alpha_P1) * backdrop_3
    return (image_P3.clamp(0, 1) * 255).round().to(torch.uint8).reshape(side, side, 3).numpy()


class Textureless(RunMetric):
    """R-Precision of the textureless renders at the last step, below that of the views. Failed runs and those
    whose views cannot be read are misses; none where the runs have no field."""

    version = 2
    columns = COLUMNS
    needs = (FEATURES, PARAMETERS)
    table = "r_precision"
    shown = ()
    miss = asdict(MISS)

    @cached_property
    def scorers(self) -> dict[str, tuple[Scorer, dict[str, str]]]:
        """Suite → a scorer of what its shapes are called, and prompt → what that is."""
        found = {}
        for suite, pool in self.runs.pools.items():
            solids = {prompt: self.runs.solid_of(prompt) for prompt in pool.prompts}
            words = {prompt: solid.words for prompt, solid in solids.items() if solid is not None}
            if len(words) == len(pool.prompts):
                shapes = Pool(f"{pool.name}, shapes", pool.sha256, tuple(dict.fromkeys(words.values())))
                found[suite] = Scorer.over(self.runs.clip, shapes), words
            else:
                found[suite] = self.runs.scorers[suite], {prompt: prompt for prompt in pool.prompts}
        return found

    def _score(self, suite: str, prompt: str, rows_VD: np.ndarray, ring: int) -> Score:
        scorer, words = self.scorers[suite]
        named = self.runs.pools[suite].prompts[self.runs.pools[suite].index(prompt)]
        return scorer.retrieve(rows_VD, ring).score(scorer.pool.index(words[named]))

    def of_run(self, run: RunRecord) -> Values:
        """The scores."""
        assert run.suite is not None
        rows_VD = textureless_features(run, self.runs.clip)
        if rows_VD is None:
            raise UserError("its parameters are not there")
        return asdict(self._score(run.suite, run.prompt, rows_VD, run.config.views.azimuths))

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per run, with the pool that it is retrieved from."""
        pools = {run.run_id: len(self.scorers[run.suite][0].pool.prompts) for run in self.runs if run.suite}
        return super().frame.assign(pool=lambda frame: frame["run"].map(pools))

    @cached_property
    def ceiling(self) -> pd.DataFrame:
        """Scores of the ground truth's own shapes: prompt, pool and the scores; empty where there is none."""
        views, rows = self.runs[0].config.views, []
        cameras_V4 = evaluation(views).columns()
        for prompt, solid in self.runs.solids.items():
            seen_VD = self.runs.clip.embed_images(solid.textureless(cameras_V4, self.runs.side)).numpy()
            for suite in {run.suite for run in self.runs if run.prompt == prompt and run.suite}:
                score = self._score(suite, prompt, seen_VD, views.azimuths)
                pool = len(self.scorers[suite][0].pool.prompts)
                rows.append({"prompt": prompt, "pool": pool, **asdict(score)})
        return pd.DataFrame(rows)
