"""What is trained on: random scenes of the toy world, from the cameras that distillation uses, as needed."""

import random
from functools import cache

import numpy as np
import torch

from harness.config import CameraConfig
from harness.guidance.views import view_name
from harness.prompt import COCO, normalised
from harness.toyworld.grammar import KINDS, Scene, Thing, caption, sample
from harness.toyworld.kinds import primitives
from harness.toyworld.render import SIZE, trace, world_lights

VIEWS_EACH = 4


def suite_prompts() -> list[str]:
    """The suite in its order."""
    lines = COCO.read_text().splitlines()
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
    """Scene `index` of a seed's sequence and its generator: nouns in turn, captions of the suite left out."""
    rng = random.Random(f"{seed}/{index}")
    nouns = tuple(KINDS)
    while True:
        found = sample(rng, (nouns[index % len(nouns)],))
        if normalised(caption(found)) not in held_out():
            return found, rng


class Ring:
    """The newest `capacity` pictures of an endless sequence; a step renews `fresh` of them.

    Picture n is a function of (seed, n) and lies at n mod capacity; step s sees the pictures s·fresh …
    s·fresh + capacity − 1, whatever was seen before. `images` is uint8 [capacity, 64, 64, 3] on the device;
    `scenes`, `views`, `rows` and `cameras` are what each shows, and from where. Both sizes are multiples of
    `VIEWS_EACH`.
    """

    def __init__(self, seed: int, device: torch.device, capacity: int, fresh: int):
        self.seed, self.capacity, self.fresh = seed, capacity, fresh
        self.images = torch.zeros((capacity, SIZE, SIZE, 3), dtype=torch.uint8, device=device)
        self.cameras = np.zeros((capacity, 4))
        self.scenes: list[Scene] = [Scene(Thing(next(iter(KINDS)), "red"))] * capacity
        self.views: list[str] = [""] * capacity
        self.rows: list[np.ndarray] = [np.zeros(0)] * capacity
        self.end = 0  # pictures up to here have been made

    def __len__(self) -> int:
        return self.capacity

    @property
    def captions(self) -> list[str]:
        """Each picture's caption, without view words."""
        return [caption(scene) for scene in self.scenes]

    def advance(self, step: int) -> np.ndarray:
        """Bring the ring to what a step sees; the places that were renewed."""
        end = step * self.fresh + self.capacity
        first = max(self.end, end - self.capacity)
        self.end = end
        places = np.arange(first, end) % self.capacity
        for start in range(0, len(places), 512):
            self._fill(first + start, places[start : start + 512])
        return places

    def _fill(self, first: int, places: np.ndarray) -> None:
        for index in range(0, len(places), VIEWS_EACH):
            found, rng = scene(self.seed, (first + index) // VIEWS_EACH)
            for place, camera in zip(
                places[index : index + VIEWS_EACH], cameras(rng, VIEWS_EACH), strict=True
            ):
                self.scenes[place], self.views[place] = found, view_name(camera[0], camera[1])
                self.rows[place], self.cameras[place] = primitives(found, rng), camera
        rows = [self.rows[place] for place in places]
        drawn = trace(rows, self.cameras[places], world_lights(len(rows)), self.images.device)
        self.images[torch.from_numpy(places).to(self.images.device)] = drawn

    def draw(self, rng: random.Random, count: int, nouns: int | None = None) -> list[int]:
        """Places of `count` pictures, kinds of things evenly; of only so many kinds, drawn anew, if asked."""
        kinds = len(KINDS)
        first = self.end - self.capacity
        here = [group % kinds for group in range(first // VIEWS_EACH, self.end // VIEWS_EACH)][:kinds]
        among = rng.sample(here, min(nouns, len(here))) if nouns else here

        def place(kind: int) -> int:
            while True:  # a picture; and of that turn of nouns, the picture of the kind asked for
                number = rng.randrange(first, self.end)
                number += (kind - number // VIEWS_EACH % kinds) * VIEWS_EACH
                if first <= number < self.end:
                    return number % self.capacity

        return [place(rng.choice(among)) for _ in range(count)]
