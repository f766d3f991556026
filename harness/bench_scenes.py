"""`harness bench scenes`: what a run and a step of each kind of scene cost, and how well it shows a thing.

Every kind is fitted to encoded views of toy objects, with the optimiser, the cameras and the number of steps
of a run: no distillation shows an object better than its scene can. Steps without a prior are timed in turn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from eval.metrics.shapes import fit as compared
from eval.metrics.shapes import solid_of_run, view_error
from harness.bench import in_turn, steps
from harness.config import Config
from harness.console import Console
from harness.device import pick_device
from harness.distill.assemble import load_guidance, make_pack
from harness.distill.context import GradientContext
from harness.distill.method import Method, MethodParams, NoiseSchedule
from harness.distill.step import Pack, evaluation_latents, step
from harness.objects.final import Final, pictures
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec
from harness.rng import Key
from harness.scene.cameras import Cameras, evaluation
from harness.scene.kind import discover, load_kind, settle
from harness.toyworld.data import suite_prompts
from harness.toyworld.grammar import parse
from harness.toyworld.kinds import primitives
from harness.toyworld.render import render
from harness.toyworld.solid import Solid

if TYPE_CHECKING:
    from harness.guidance.prior import Guidance

ROUNDS = 5
PROMPTS = 4
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


class Pull(Method):
    """Noise: a gradient at every pixel, at no cost."""

    nfe = 0

    def __init__(self, guidance: Guidance):
        super().__init__(MethodParams(), NoiseSchedule(guidance.alphas_cumprod_T, *guidance.t_range))

    def gradient(self, ctx: GradientContext) -> Tensor:
        """The step's noise."""
        return ctx.noise_RCHW


def truth(prompts: Sequence[str], cameras: Cameras) -> np.ndarray:
    """The prompts' own toy scenes, each from its camera, uint8 [R, 64, 64, 3]."""
    return render([primitives(parse(prompt)) for prompt in prompts], cameras.columns())


def codes(guidance: Guidance, prompts: Sequence[str], cameras: Cameras) -> Tensor:
    """`truth` as latents, [R, C, H, W] on the prior's device."""
    pixels = torch.from_numpy(truth(prompts, cameras)).movedim(-1, 1) / 255
    return guidance.encode(pixels.to(guidance.device))


def fitted(config: Config, guidance: Guidance, keys: Sequence[Key], known: Known | None = None) -> Pack:
    """These runs, at their last step, that were shown their objects instead of a prior's opinion."""
    has_sides = load_kind(config.scene.kind).has_sides
    method = Towards(guidance, None if has_sides else evaluation(config.views)[:1], known)
    pack = make_pack(config, guidance, method, keys, "auto")
    for _ in range(config.steps):
        step(pack)
    return pack


@dataclass(frozen=True)
class Ceiling:
    """What fitted runs are beside their objects, means over the runs: see `eval.metrics.shapes`."""

    view_error: float
    iou: float | None


def ceiling(pack: Pack) -> Ceiling:
    """Compare a pack of `fitted` with what it was shown."""
    cameras, prompts = evaluation(pack.config.views), [key.prompt for key in pack.keys]
    x_RVCHW = evaluation_latents(pack, cameras, range(len(prompts)))
    errors, ious = [], []
    for r, prompt in enumerate(prompts):
        shown = pictures(pack.guidance, x_RVCHW[r]).numpy()
        errors.append(view_error(shown, truth([prompt] * len(cameras), cameras)))
        if pack.scene.quantity is not None:
            spec = RunSpec(method="fit", prompt=prompt, seed=pack.keys[r].seed, config=pack.config)
            own = {name: value[r : r + 1] for name, value in pack.params.items()}
            final = Final(RunFolder(Path("fit")), spec, pack.scene, own, pack.guidance.device)
            ious.append(compared(solid_of_run(final), Solid(prompt)).iou)
    return Ceiling(float(np.mean(errors)), float(np.mean(ious)) if ious else None)


def megabytes(*groups: Mapping[str, Tensor]) -> float:
    """Of one run's share of tensors [R, …]."""
    return sum(each[0].numel() * each.element_size() for group in groups for each in group.values()) / 1e6


def run(
    config: Config, prompts: int = PROMPTS, kinds: Sequence[str] = (), console: Console | None = None
) -> int:
    """Measure every kind (or `kinds`) in the toy world, and print a table; the exit code, 0.

    config: of the toy preset; what it sets of a kind's own holds for that kind.
    """
    console, device = console or Console(), torch.device(pick_device("auto"))
    guidance, suite = load_guidance(config, device), suite_prompts()
    chosen = [suite[k * len(suite) // prompts] for k in range(prompts)]
    configs = {kind: _of_kind(config, kind) for kind in kinds or sorted(discover())}
    keys = [Key(prompt, 0) for prompt in chosen]
    packs = {kind: make_pack(each, guidance, Pull(guidance), keys, "auto") for kind, each in configs.items()}
    turns = {kind: steps(pack, 1) for kind, pack in packs.items()}
    once = {kind: min(turn(), turn()) for kind, turn in turns.items()}
    turns = {kind: steps(pack, max(1, math.ceil(0.1 / prompts / once[kind]))) for kind, pack in packs.items()}
    times = in_turn(turns, ROUNDS)
    known: Known = {}
    table = Table("kind", "numbers", "MB a run", "ms a step", "view error", "IoU")
    for kind, each in configs.items():
        pack = packs.pop(kind)
        kept = megabytes(pack.params, pack.adam.first, pack.adam.second, pack.scene_state)
        numbers = sum(value[0].numel() for value in pack.params.values())
        found = ceiling(fitted(each, guidance, keys, known))
        iou = "" if found.iou is None else f"{found.iou:.2f}"
        table.add_row(
            kind, f"{numbers:,}", f"{kept:.2f}", f"{1e3 * times[kind]:.2f}", f"{found.view_error:.3f}", iou
        )
    console.print(table)
    cameras = evaluation(config.views)
    pixels = [truth([prompt] * len(cameras), cameras) for prompt in chosen]
    coded = [pictures(guidance, codes(guidance, [p] * len(cameras), cameras)).numpy() for p in chosen]
    floor = np.mean([view_error(a, b) for a, b in zip(coded, pixels, strict=True)])
    threads = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    console.print(
        f"{prompts} prompts × {config.steps} steps, a pack of {prompts}; MB: parameters, Adam's moments and "
        f"state; ms: of a run, without a prior; the autoencoder's own view error is {floor:.3f}; {device} "
        f"({threads})",
        soft_wrap=True,
    )
    return 0


def _of_kind(config: Config, kind: str) -> Config:
    """The configuration, with a scene of the kind."""
    if kind == config.scene.kind:
        return config
    plain = config.scene.model_copy(update={"kind": kind, "own": {}, "own_set": ()})
    one = {} if load_kind(kind).has_sides else {"azimuths": 1, "heldout_elevation": None}
    views = config.views.model_copy(update=one)
    return settle(config.model_copy(update={"scene": plain, "views": views}))
