"""Textureless renders: the shape alone, shaded grey, as DreamFusion scores beside its coloured views.

The scene at the run's last step is rendered at image resolution; albedo is white, shading is
.1 + .9·max(0, n·l) with normals n from the density and a light l that stands over the camera.
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
from eval.scorers.retrieval import MISS
from eval.sources.load import RunRecord
from harness.config import UserError
from harness.objects.final import Final, NoSides, load
from harness.records.files import strip, tiles, write_cache
from harness.scene.cameras import Cameras, evaluation, rays

VERSION = 1
AMBIENT, DIFFUSE = 0.1, 0.9  # DreamFusion, appendix A.2


def textureless_features(run: RunRecord, clip: Clip) -> np.ndarray | None:
    """Unit features [V, D] of the textureless renders; None where it has no sides.

    The renders are kept as `<run>/eval/textureless-v<version>.png`, a strip of tiles of the views' size.
    """
    path = run.folder.eval / f"textureless-v{VERSION}.png"
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

    version = VERSION
    columns = COLUMNS
    needs = (FEATURES, PARAMETERS)
    table = "r_precision"
    shown = ()
    miss = asdict(MISS)

    def of_run(self, run: RunRecord) -> Values:
        """The scores, and the size of the pool."""
        assert run.suite is not None
        scorer = self.runs.scorers[run.suite]
        rows_VD = textureless_features(run, self.runs.clip)
        if rows_VD is None:
            raise UserError("its parameters are not there")
        retrieval = scorer.retrieve(rows_VD, run.config.views.azimuths)
        return asdict(retrieval.score(scorer.pool.index(run.prompt)))

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per run, with the pool that it is retrieved from."""
        pools = {run.run_id: len(self.runs.pools[run.suite].prompts) for run in self.runs if run.suite}
        return super().frame.assign(pool=lambda frame: frame["run"].map(pools))
