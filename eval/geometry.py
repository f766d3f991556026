"""Textureless renders: the shape alone, shaded grey, as DreamFusion scores beside its coloured views.

The field's density at the run's last step is rendered at image resolution; albedo is white, shading is
.1 + .9·max(0, n·l) with normals n from the density and a light l that stands over the camera.
"""

from __future__ import annotations

import numpy as np
import torch

from eval.clip import Clip
from eval.features import cache_key, file_features
from eval.load import RunRecord
from harness.records.files import strip, tiles, write_bytes
from harness.scene.cameras import evaluation
from harness.scene.field import choose_backend
from harness.scene.generator import FieldGenerator
from harness.scene.regularisers import normals

VERSION = 1
AMBIENT, DIFFUSE = 0.1, 0.9  # DreamFusion, appendix A.2


def textureless_features(run: RunRecord, clip: Clip) -> np.ndarray | None:
    """Unit features [V, D] of the textureless renders; None where there is no field.

    The renders are kept as `<run>/eval/textureless-v<version>.png`, a strip of tiles of the views' size.
    """
    path = run.path / "eval" / f"textureless-v{VERSION}.png"
    if not path.is_file() or path.stat().st_mtime < (run.path / "result.json").stat().st_mtime:
        images_VHWC = textureless(run, run.views(run.total).shape[1])
        if images_VHWC is None:
            return None
        path.parent.mkdir(exist_ok=True)
        write_bytes(path, strip(images_VHWC))
    cache = run.path / "eval" / f"textureless-{cache_key(clip)}.safetensors"
    found, _ = file_features(cache, {run.total: path}, lambda step: tiles(path), clip)
    return found.get(run.total)


@torch.no_grad()
def textureless(run: RunRecord, side: int) -> np.ndarray | None:
    """Grey renders at the evaluation cameras, [V, side, side, 3] uint8; None where there is no field."""
    if run.config.scene.kind != "field" or run.status != "done":
        return None
    params = run.folder.load_params(run.total)
    if params is None:
        return None
    stacked = {name: value[None] for name, value in params.items()}
    channels = stacked["w2"].shape[1] - 1
    scene = FieldGenerator(run.config.scene, channels, choose_backend("cpu"))
    cameras = evaluation(run.config.views)
    views = [_shade(scene, stacked, cameras[v : v + 1], side) for v in range(len(cameras))]
    return np.stack(views)


def _shade(scene: FieldGenerator, params: dict[str, torch.Tensor], camera, side: int) -> np.ndarray:
    out = scene.render(params, camera, torch.zeros(1, scene.field.channels), None, side)
    weights_PS, opacity_P = out.weights_RPS[0], out.opacity_RHW[0].flatten()
    hit_P = opacity_P > 0.05
    # The surface is where the light is taken: one normal a ray, at its mean depth.
    points_PS3 = out.points_RPS3[0]
    share_PS = weights_PS / weights_PS.sum(-1, keepdim=True).clamp(min=1e-6)
    surface_P3 = (share_PS[..., None] * torch.where(weights_PS[..., None] > 0, points_PS3, 0.0)).sum(1)
    normals_P3 = normals(scene.field, params, surface_P3[None], 0.02 * scene.cfg.bound)[0]
    forward_P3 = out.directions_RP3[0]
    light_3 = -forward_P3.mean(0) + torch.tensor([0.0, 0.0, 1.0])
    shade_P = AMBIENT + DIFFUSE * (normals_P3 @ (light_3 / light_3.norm())).clamp(min=0)
    backdrop_3 = torch.tensor(scene.cfg.background_rgb)
    alpha_P1 = (opacity_P * hit_P)[:, None]
    image_P3 = alpha_P1 * shade_P[:, None] + (1 - alpha_P1) * backdrop_3
    return (image_P3.clamp(0, 1) * 255).round().to(torch.uint8).reshape(side, side, 3).numpy()
