"""`harness bench scenes`: what a run and a step of each kind of scene cost, and how well it shows a thing.

Every kind is fitted to encoded views of toy objects, with the optimiser, the cameras and the number of steps
of a run: no distillation shows an object better than its scene can. Steps without a prior are timed in turn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from eval.metrics.shapes import view_error
from eval.statistics.intervals import bootstrap_mean, share_mean
from eval.tables.rows import rng
from eval.tables.table import number
from harness.bench import in_turn, steps
from harness.config import Config
from harness.console import Console
from harness.device import pick_device
from harness.distill.assemble import load_guidance, make_pack
from harness.distill.context import GradientContext
from harness.distill.method import Method, MethodParams, NoiseSchedule
from harness.fitted import Known, codes, fitted, seen, truth, view_errors
from harness.objects.final import pictures
from harness.rng import Key
from harness.scene.cameras import evaluation
from harness.scene.kind import discover, load_kind, settle
from harness.toyworld.data import suite_prompts

if TYPE_CHECKING:
    from harness.guidance.prior import Guidance

ROUNDS = 5
PROMPTS = 10


class Pull(Method):
    """Noise: a gradient at every pixel, at no cost."""

    nfe = 0

    def __init__(self, guidance: Guidance):
        super().__init__(MethodParams(), NoiseSchedule(guidance.alphas_cumprod_T, *guidance.t_range))

    def gradient(self, ctx: GradientContext) -> Tensor:
        """The step's noise."""
        return ctx.noise_RCHW


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
        shown = fitted(each, guidance, keys, known)
        found = seen(shown)
        error = bootstrap_mean({prompt: [e] for prompt, e in view_errors(shown, found).items()}, rng())
        ious = {k.prompt: [one.iou] for k, one in zip(keys, found, strict=True) if one.iou is not None}
        iou = str(number(share_mean(ious))) if ious else ""
        table.add_row(
            kind, f"{numbers:,}", f"{kept:.2f}", f"{1e3 * times[kind]:.2f}", str(number(error, 3)), iou
        )
    console.print(table)
    cameras = evaluation(config.views)
    pixels = [truth([prompt] * len(cameras), cameras) for prompt in chosen]
    coded = [pictures(guidance, codes(guidance, [p] * len(cameras), cameras)).numpy() for p in chosen]
    floor = np.mean([view_error(a, b) for a, b in zip(coded, pixels, strict=True)])
    threads = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    console.print(
        f"{prompts} prompts × {config.steps} steps, a pack of {prompts}; intervals over prompts; "
        f"MB: parameters, Adam's moments and state; ms: a run's, without a prior; the autoencoder's own view "
        f"error is {floor:.3f}; {device} ({threads})",
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
