"""The toy scorer: an open_clip model trained to match renders with captions, hard look-alikes among them.

It shares no weights with the prior: a scorer that guided the run would be cheating.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch.nn import functional as F

from harness.config import UserError, first_line
from harness.guidance.views import VIEWS
from harness.toyworld.data import Ring
from harness.toyworld.grammar import COLOURS, KINDS, Scene, caption, exchanged, without_colours
from harness.toyworld.kinds import misplaced
from harness.toyworld.render import textureless, trace, world_lights
from harness.toyworld.training import Budget, Outcome, Say, Schedule, generator, mixed, train
from harness.toyworld.words import CONTEXT, vocabulary_size, write_open_clip_bpe

SCHEDULE = Schedule(lr=1.2e-3, weight_decay=0.05, average=0.995)
BATCH = 96
SHAPES, MISPLACED = 16, 12  # of a batch: shapes alone; beside it: things with a part misplaced
VIEW_SHARE = 0.25
BPE = "bpe.txt.gz"
CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 128,
        "quick_gelu": False,
        "vision_cfg": {"image_size": 64, "layers": [1, 2, 2, 1], "width": 32, "head_width": 64},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": vocabulary_size(),
            "width": 128,
            "heads": 4,
            "layers": 3,
            "tokenizer_kwargs": {"bpe_path": BPE},
        },
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}


def new_clip() -> Any:
    """An untrained scorer of the shipped architecture."""
    cfg = CONFIG["model_cfg"]
    return open_clip.CLIP(
        embed_dim=cfg["embed_dim"], vision_cfg=cfg["vision_cfg"], text_cfg=cfg["text_cfg"], quick_gelu=False
    )


def look_alike(scene: Scene, rng: random.Random) -> Scene:
    """The scene with one thing changed: a colour, a part, its colour, a pattern or the noun."""
    thing = scene.thing
    kind = KINDS[thing.noun]
    options = ["colour", "colour", "noun", "part"] + (["pattern"] if kind.patterns else [])
    options += ["part colour"] * 2 if thing.part else []
    options += ["support"] * 2 if scene.support else []
    choice = rng.choice(options)
    others = [c for c in COLOURS if c not in (thing.colour, thing.part_colour)]
    if choice == "colour":
        return replace(scene, thing=replace(thing, colour=rng.choice(others)))
    if choice == "part colour":
        return replace(scene, thing=replace(thing, part_colour=rng.choice(others)))
    if choice == "support" and scene.support:
        colour = rng.choice([c for c in COLOURS if c != scene.support.colour])
        return replace(scene, support=replace(scene.support, colour=colour))
    if choice == "pattern":
        pattern = rng.choice([p for p in (None, "striped", "spotted") if p != thing.pattern])
        return replace(scene, thing=replace(thing, pattern=pattern))
    if choice == "part":
        if thing.part:
            return replace(scene, thing=replace(thing, part=None, part_colour=None))
        return replace(
            scene, thing=replace(thing, part=rng.choice(list(kind.parts)), part_colour=rng.choice(others))
        )
    same = [k for k, v in KINDS.items() if k != thing.noun and (v.item or not scene.support)]
    same = [k for k in same if KINDS[k].patterns or not thing.pattern]
    return replace(scene, thing=replace(thing, noun=rng.choice(same), part=None, part_colour=None))


def augment(x_NCHW: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """What a field's render suffers and a clean one does not: shift, scale, blur, noise, drifted colours."""
    n = len(x_NCHW)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return (torch.rand(shape, generator=draw) * (high - low) + low).to(x_NCHW.device)

    zoom = uniform(0.88, 1.2, n)
    theta = torch.zeros(n, 2, 3, device=x_NCHW.device)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    theta[:, :, 2] = uniform(-0.1, 0.1, n, 2)
    grid = F.affine_grid(theta, list(x_NCHW.shape), align_corners=False)
    x = F.grid_sample(x_NCHW, grid, padding_mode="border", align_corners=False)
    coarse = F.interpolate(F.interpolate(x, size=24, mode="area"), size=x.shape[-1], mode="bilinear")
    x = torch.lerp(x, coarse, uniform(0, 1, n, 1, 1, 1) * (uniform(0, 1, n, 1, 1, 1) < 0.5))
    grey = x.mean(1, keepdim=True)
    x = torch.lerp(grey, x, uniform(0.75, 1.35, n, 1, 1, 1))
    x = (x - 0.5) * uniform(0.8, 1.2, n, 1, 1, 1) + 0.5 + uniform(-0.08, 0.08, n, 3, 1, 1)
    noise = torch.randn(x.shape, generator=draw).to(x.device) * uniform(0, 0.08, n, 1, 1, 1)
    return (x + noise).clamp(0, 1)


def train_clip(
    work: Path, model: Any, ring: Ring, seed: int, budget: Budget, say: Say, schedule: Schedule = SCHEDULE
) -> Outcome:
    """Contrastive training in place, two texts a picture: its own and a look-alike's, some with view words.

    A part of each batch is shapes alone, with captions that name no colour; and beside some pictures stands
    the same thing with a part misplaced, which no caption is true of.
    """
    device = ring.images.device
    # Channels last trains a third faster on CPUs.
    model.to(memory_format=torch.channels_last)
    bpe = work / BPE
    work.mkdir(parents=True, exist_ok=True)
    write_open_clip_bpe(bpe)
    tokenize = SimpleTokenizer(bpe_path=str(bpe), context_length=CONTEXT)
    mean, std = (
        torch.tensor(CONFIG["preprocess_cfg"][k]).view(1, 3, 1, 1).to(device) for k in ("mean", "std")
    )

    def loss_of(step: int) -> torch.Tensor:
        ring.advance(step)
        rng = random.Random(f"{seed}/clip/{step}")
        index = ring.draw(rng, BATCH, 6 if step % 2 else None)
        texts, wrong = _texts(ring, index, rng)
        extra = _misplaced(ring, index[SHAPES:], rng, device)
        shapes = textureless([ring.rows[i] for i in index[:SHAPES]], ring.cameras[index[:SHAPES]], device)
        images = torch.cat([shapes, ring.images[torch.tensor(index[SHAPES:]).to(device)], extra])
        x = images.permute(0, 3, 1, 2).float().div(255)
        x = (augment(x, generator(seed + 1, step)) - mean) / std
        x = x.contiguous(memory_format=torch.channels_last)
        with mixed(device):
            image = model.encode_image(x, normalize=True)
            text = model.encode_text(tokenize(texts + wrong).to(device), normalize=True)
        scale = model.logit_scale.exp().clamp(max=100)
        logits = scale * image.float() @ text.float().T
        logits[:BATCH] = logits[:BATCH].masked_fill(_also_true(ring, index, texts, wrong).to(device), -1e4)
        target = torch.arange(BATCH, device=device)
        to_text = F.cross_entropy(logits[:BATCH], target)
        return (to_text + F.cross_entropy(logits[:, :BATCH].T, target)) / 2

    return train("clip", work, model, loss_of, schedule, budget, say)


def _texts(ring: Ring, index: Sequence[int], rng: random.Random) -> tuple[list[str], list[str]]:
    """Each picture's caption and a look-alike's; the first `SHAPES` are of shapes alone."""
    texts, wrong = [], []
    for place, i in enumerate(index):
        scene = ring.scenes[i]
        view = ring.views[i] if rng.random() < VIEW_SHARE else None
        dot = "." if rng.random() < 0.5 else ""
        if place < SHAPES:
            other = ring.scenes[rng.choice(index)]
            texts.append(without_colours(scene) + dot)
            wrong.append(without_colours(other) + dot)
            continue
        texts.append(caption(scene, view) + dot)
        if view and rng.random() < 0.5:
            wrong.append(caption(scene, rng.choice([v for v in VIEWS if v != view])) + dot)
            continue
        twin = exchanged(scene) if rng.random() < 0.3 else None
        wrong.append(caption(twin or look_alike(scene, rng), view) + dot)
    return texts, wrong


def _misplaced(ring: Ring, index: Sequence[int], rng: random.Random, device: torch.device) -> torch.Tensor:
    """Pictures of up to `MISPLACED` of these things with a part misplaced, seen from where the thing is."""
    rows, seen = [], []
    for i in index:
        broken = misplaced(ring.scenes[i], rng)
        if broken is not None and len(rows) < MISPLACED:
            rows.append(broken)
            seen.append(ring.cameras[i])
    if not rows:
        return ring.images[:0]
    return trace(rows, np.array(seen), world_lights(len(rows)), device)


def _also_true(ring: Ring, index: Sequence[int], texts: list[str], wrong: list[str]) -> torch.Tensor:
    """[BATCH, 2·BATCH] bool: texts that are no negatives of a picture though they are not its own, since they
    are the same words, or name its nouns and no colour."""
    plain = [text.rstrip(".") for text in texts + wrong]
    nouns = [without_colours(ring.scenes[i]) for i in index]
    mask = torch.tensor([[b in (own, noun) for b in plain] for own, noun in zip(plain, nouns, strict=False)])
    mask[range(BATCH), range(BATCH)] = False
    return mask


def save_clip(model: torch.nn.Module, folder: Path) -> None:
    """An open_clip `local-dir` folder: configuration, half-precision weights, vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "open_clip_model.safetensors")
    write_open_clip_bpe(folder / BPE)


def load_clip(folder: Path) -> Any:
    """The scorer that `save_clip` wrote, in float32, to be trained on; UserError where there is none."""
    try:
        model: Any = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True)
    except Exception as error:  # open_clip, safetensors and json each raise kinds of their own
        raise UserError(f"{folder} holds no scorer of the toy world: {first_line(error)}") from error
    return model.float()
