"""Scenes that were shown their toy objects instead of a prior's opinion: what a scene can be at its best.

They have the optimiser, the cameras and the number of steps of a run, and the autoencoder's codes of the
object's true views as their aim: no distillation shows an object better than its scene can.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from eval.metrics.shapes import fit as compared
from eval.metrics.shapes import solid_of_run, view_error
from eval.runs import Fitted
from harness.config import SPEC_VERSION, Config, UserError
from harness.device import pick_device
from harness.distill.assemble import load_guidance, make_pack
from harness.distill.context import GradientContext
from harness.distill.method import Method, MethodParams, NoiseSchedule
from harness.distill.step import Pack, evaluation_latents, step
from harness.objects.final import Final, encoded, pictures
from harness.records.files import read_json, strip, tiles, write_cache
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec, canonical_json, hashed_config, slug
from harness.records.stamp import must_be
from harness.rng import Key
from harness.scene.cameras import Cameras, evaluation
from harness.scene.kind import load_kind
from harness.toyworld.grammar import parse
from harness.toyworld.kinds import primitives
from harness.toyworld.render import render
from harness.toyworld.solid import Solid

if TYPE_CHECKING:
    from harness.guidance.prior import Guidance

PACK = 16  # objects that are fitted side by side
Known = dict[Any, Tensor]  # codes [R, C, H, W] by the runs and their steps


class Towards(Method):
    """Half the squared distance to the code of the prompt's own toy scene, seen from the run's camera; of a
    scene without sides always from `fixed`.

    Cameras are the same for every kind of scene: codes are made once for all that are given one `known`.
    """

    nfe = 0

    def __init__(self, guidance: Guidance, fixed: Cameras | None = None, known: Known | None = None):
        super().__init__(MethodParams(), NoiseSchedule(guidance.alphas_cumprod_T, *guidance.t_range))
        self._guidance, self._fixed, self._known = guidance, fixed, {} if known is None else known

    def gradient(self, ctx: GradientContext) -> Tensor:
        """x − z."""
        at = (ctx.keys, None if self._fixed else tuple(ctx.step_R.tolist()))
        if at not in self._known:
            cameras = self._fixed.expand(len(ctx.keys)) if self._fixed else ctx.cameras
            self._known[at] = codes(self._guidance, ctx.prompts, cameras)
        return ctx.x_RCHW - self._known[at]


def truth(prompts: Sequence[str], cameras: Cameras) -> np.ndarray:
    """The prompts' own toy scenes, each from its camera, uint8 [R, 64, 64, 3]."""
    return render([primitives(parse(prompt)) for prompt in prompts], cameras.columns())


def codes(guidance: Guidance, prompts: Sequence[str], cameras: Cameras) -> Tensor:
    """`truth` as latents, [R, C, H, W] on the prior's device."""
    return encoded(guidance, truth(prompts, cameras))


def fitted(config: Config, guidance: Guidance, keys: Sequence[Key], known: Known | None = None) -> Pack:
    """These runs, at their last step, that were shown their objects instead of a prior's opinion."""
    has_sides = load_kind(config.scene.kind).has_sides
    method = Towards(guidance, None if has_sides else evaluation(config.views)[:1], known)
    pack = make_pack(config, guidance, method, keys, "auto")
    for _ in range(config.steps):
        step(pack)
    return pack


def seen(pack: Pack) -> list[Fitted]:
    """What the evaluation cameras see of each run of a pack, and its solid beside the caption's."""
    cameras = evaluation(pack.config.views)
    x_RVCHW = evaluation_latents(pack, cameras, range(len(pack.keys)))
    found = []
    for r, key in enumerate(pack.keys):
        shape = None
        if pack.scene.quantity is not None:
            spec = RunSpec(method="fit", prompt=key.prompt, seed=key.seed, config=pack.config)
            own = {name: value[r : r + 1] for name, value in pack.params.items()}
            final = Final(RunFolder(Path("fit")), spec, pack.scene, own, pack.guidance.device)
            shape = compared(solid_of_run(final), Solid(key.prompt))
        shown = pictures(pack.guidance, x_RVCHW[r]).numpy()
        found.append(Fitted(shown, shape and shape.iou, shape and shape.aligned_iou))
    return found


def view_errors(pack: Pack, found: Sequence[Fitted]) -> dict[str, float]:
    """Prompt → `eval.metrics.shapes.view_error` of a run of `fitted` beside what it was shown."""
    cameras = evaluation(pack.config.views)
    return {
        key.prompt: view_error(each.views_VHWC, truth([key.prompt] * len(cameras), cameras))
        for key, each in zip(pack.keys, found, strict=True)
    }


def fitted_views(
    root: Path, config: Config, prior_hash: str, prompts: Sequence[str], device: str
) -> dict[str, Fitted]:
    """Prompt → its object, fitted at a run's configuration, seed 0. Kept in `<root>/eval/fitted-<key>/`.

    Raises UserError for captions that the toy world does not know, and where the prior is not here.
    """
    solids = {prompt: Solid(prompt) for prompt in prompts}
    asked = [SPEC_VERSION, hashed_config(config), config.steps, prior_hash]
    folder = root / "eval" / f"fitted-{hashlib.sha256(canonical_json(asked).encode()).hexdigest()[:12]}"
    names = {prompt: f"{slug(prompt)}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}" for prompt in solids}
    found = {prompt: kept for prompt, name in names.items() if (kept := _kept(folder / name))}
    missing = [prompt for prompt in solids if prompt not in found]
    guidance = load_guidance(config, torch.device(pick_device(device))) if missing else None
    if guidance:
        must_be(guidance.record, prior_hash)
    for first in range(0, len(missing), PACK):
        assert guidance is not None
        part = missing[first : first + PACK]
        pack = fitted(config, guidance, [Key(prompt, 0) for prompt in part])
        for prompt, each in zip(part, seen(pack), strict=True):
            found[prompt] = each
            write_cache(folder / f"{names[prompt]}.png", strip(each.views_VHWC))
            ious = {"iou": each.iou, "aligned_iou": each.aligned_iou}
            write_cache(folder / f"{names[prompt]}.json", json.dumps(ious).encode())
    return {prompt: found[prompt] for prompt in solids}


def _kept(path: Path) -> Fitted | None:
    """A cached one; None where there is none, or a damaged one."""
    try:
        about = read_json(path.with_name(f"{path.name}.json"))
        if about is None:
            return None
        return Fitted(
            tiles(path.with_name(f"{path.name}.png").read_bytes()), about["iou"], about["aligned_iou"]
        )
    except (UserError, ValueError, TypeError, KeyError, OSError):
        return None
