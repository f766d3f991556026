"""The toy scorer: an open_clip model trained to match renders with captions, hard look-alikes among them.

It shares no weights with the prior: a scorer that guided the run would be cheating.
"""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch.nn import functional as F

from harness.guidance.views import VIEWS
from harness.toyworld.data import ToyImages
from harness.toyworld.grammar import COLOURS, KINDS, Scene, caption
from harness.toyworld.training import Outcome, Say, Schedule, generator, train
from harness.toyworld.words import CONTEXT, vocabulary_size, write_open_clip_bpe

SCHEDULE = Schedule(steps=1800, lr=1.2e-3, weight_decay=0.05, average=0.995)
BATCH = 96
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
        return torch.rand(shape, generator=draw) * (high - low) + low

    zoom = uniform(0.88, 1.2, n)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    theta[:, :, 2] = uniform(-0.1, 0.1, n, 2)
    grid = F.affine_grid(theta, list(x_NCHW.shape), align_corners=False)
    x = F.grid_sample(x_NCHW, grid, padding_mode="border", align_corners=False)
    coarse = F.interpolate(F.interpolate(x, size=24, mode="area"), size=x.shape[-1], mode="bilinear")
    x = torch.lerp(x, coarse, uniform(0, 1, n, 1, 1, 1) * (uniform(0, 1, n, 1, 1, 1) < 0.5))
    grey = x.mean(1, keepdim=True)
    x = torch.lerp(grey, x, uniform(0.75, 1.35, n, 1, 1, 1))
    x = (x - 0.5) * uniform(0.8, 1.2, n, 1, 1, 1) + 0.5 + uniform(-0.08, 0.08, n, 3, 1, 1)
    noise = torch.randn(x.shape, generator=draw) * uniform(0, 0.08, n, 1, 1, 1)
    return (x + noise).clamp(0, 1)


def train_clip(
    work: Path, data: ToyImages, seed: int, say: Say, schedule: Schedule = SCHEDULE
) -> tuple[Any, Outcome]:
    """Contrastive training, two texts an image: its own and a look-alike's, some with view words."""
    torch.manual_seed(seed + 1)
    # Channels last trains a third faster on CPUs.
    model = new_clip().to(memory_format=torch.channels_last)
    bpe = work / BPE
    work.mkdir(parents=True, exist_ok=True)
    write_open_clip_bpe(bpe)
    tokenize = SimpleTokenizer(bpe_path=str(bpe), context_length=CONTEXT)
    scenes, groups = data.scenes, data.by_noun()
    mean, std = (torch.tensor(CONFIG["preprocess_cfg"][k]).view(1, 3, 1, 1) for k in ("mean", "std"))

    def loss_of(step: int) -> torch.Tensor:
        rng = random.Random(f"{seed}/clip/{step}")
        pool = rng.sample(groups, 6) if step % 2 else groups
        index = [rng.choice(group) for group in rng.choices(pool, k=BATCH)]
        texts, wrong = [], []
        for i in index:
            view = data.views[i] if rng.random() < VIEW_SHARE else None
            dot = "." if rng.random() < 0.5 else ""
            texts.append(caption(scenes[i], view) + dot)
            if view and rng.random() < 0.5:
                wrong.append(caption(scenes[i], rng.choice([v for v in VIEWS if v != view])) + dot)
            else:
                wrong.append(caption(look_alike(scenes[i], rng), view) + dot)
        x = torch.from_numpy(data.images[index]).permute(0, 3, 1, 2).float().div(255)
        x = (augment(x, generator(seed + 1, step)) - mean) / std
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            image = model.encode_image(x, normalize=True)
            text = model.encode_text(tokenize(texts + wrong), normalize=True)
        scale = model.logit_scale.exp().clamp(max=100)
        logits = scale * image.float() @ text.float().T
        # The same words twice in a batch are no negatives of each other.
        plain = [t.rstrip(".") for t in texts + wrong]
        same = torch.tensor([[a == b for b in plain] for a in plain[:BATCH]])
        same[range(BATCH), range(BATCH)] = False
        logits = logits.masked_fill(same, -1e4)
        target = torch.arange(BATCH)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits[:, :BATCH].T, target)) / 2

    outcome = train("clip", work, model.train(), loss_of, schedule, say)
    return model.eval(), outcome


def save_clip(model: torch.nn.Module, folder: Path) -> None:
    """An open_clip `local-dir` folder: configuration, half-precision weights, vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "open_clip_model.safetensors")
    write_open_clip_bpe(folder / BPE)
