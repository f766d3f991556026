"""The training set: random scenes of the toy world, rendered from the cameras that distillation uses."""

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from harness.config import CameraConfig
from harness.guidance.views import view_name
from harness.prompt import normalised
from harness.toyworld.grammar import KINDS, Scene, caption, parse, sample
from harness.toyworld.objects import primitives
from harness.toyworld.render import render

SCENES, VIEWS_EACH, SHARD = 18_000, 3, 1_500
SUITE = Path(__file__).parents[2] / "prompts" / "coco.txt"


def suite_prompts() -> list[str]:
    """The suite in its order."""
    lines = SUITE.read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


@cache
def held_out() -> frozenset[str]:
    """The suite's prompts, normalised: no training scene has one of these captions."""
    return frozenset(map(normalised, suite_prompts()))


def cameras(rng: random.Random, count: int) -> np.ndarray:
    """[count, 4] azimuth, elevation, distance, field of view, drawn as distillation draws them."""
    cfg = CameraConfig()
    ranges = (cfg.azimuth, cfg.elevation, cfg.distance, cfg.fov)
    return np.array([[rng.uniform(*r) for r in ranges] for _ in range(count)])


def scene(seed: int, index: int) -> tuple[Scene, random.Random]:
    """Scene `index` of the set and its generator: nouns in turn, captions of the suite left out."""
    rng = random.Random(f"{seed}/{index}")
    nouns = tuple(KINDS)
    while True:
        found = sample(rng, (nouns[index % len(nouns)],))
        if normalised(caption(found)) not in held_out():
            return found, rng


def _shard(seed: int, first: int, count: int) -> tuple[np.ndarray, list[dict]]:
    rows, angles, labels = [], [], []
    for index in range(first, first + count):
        found, rng = scene(seed, index)
        for camera in cameras(rng, VIEWS_EACH):
            rows.append(primitives(found, rng))
            angles.append(camera)
            view = view_name(camera[0], camera[1])
            labels.append({"scene": index, "caption": caption(found), "view": view})
    return render(rows, np.array(angles)), labels


class ToyImages:
    """The rendered set: `images` uint8 [N, 64, 64, 3] with their `captions`, `views` and `scenes`."""

    def __init__(self, folder: Path) -> None:
        paths = sorted(folder.glob("images-*.npy"))
        self.images = np.concatenate([np.load(p) for p in paths])
        labels = [
            json.loads(line) for p in paths for line in p.with_suffix(".jsonl").read_text().splitlines()
        ]
        self.captions = [row["caption"] for row in labels]
        self.views = [row["view"] for row in labels]
        self.scenes = [parse(text) for text in self.captions]

    def by_noun(self) -> list[list[int]]:
        """Indices of the images of each kind of thing, so that batches can draw kinds evenly."""
        groups: dict[str, list[int]] = {noun: [] for noun in KINDS}
        for index, scene in enumerate(self.scenes):
            groups[scene.thing.noun].append(index)
        return [group for group in groups.values() if group]

    def __len__(self) -> int:
        return len(self.images)


def build(work: Path, seed: int, say: Callable[[str], None], scenes: int = SCENES) -> ToyImages:
    """Render what is missing of the set into `work`/images and load it; resumable by shard."""
    folder = work / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, scenes, SHARD):
        path = folder / f"images-{first:06d}.npy"
        if path.exists():
            continue
        images, labels = _shard(seed, first, min(SHARD, scenes - first))
        path.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in labels))
        np.save(path.with_name(".partial.npy"), images)
        path.with_name(".partial.npy").rename(path)
        say(f"images {first + len(images) // VIEWS_EACH}/{scenes} scenes")
    return ToyImages(folder)
