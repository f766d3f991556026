"""What the toy weights must show, on scenes, captions and cameras they were not trained on."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch

from harness.config import GuidanceConfig, ViewsConfig
from harness.guidance.prior import Guidance
from harness.guidance.sampling import sample
from harness.guidance.views import VIEWS, view_name
from harness.toyworld import data
from harness.toyworld.grammar import COLOURS, KINDS, Scene, Thing, caption, exchanged, parse, without_colours
from harness.toyworld.kinds import misplaced, primitives
from harness.toyworld.render import BACKGROUND, ground_truth, render, textureless
from harness.toyworld.training import Say, generator
from harness.toyworld.vae import decibels, disturb

# Scores of uint8 views [N, V, H, W, 3] against a pool of N captions, view set n belonging to caption n:
# majority and share over the first `ring` views. R-Precision lives above this package and is handed in.
Retrieval = Callable[[np.ndarray, Sequence[str], int], Sequence[tuple[float, float]]]
UNSEEN = 1  # a seed no training used
SCENES = 300
DDIM_STEPS = 50
# Evaluation views 0, 2, 4 of the ring of eight, and one from above: what a caption's view words ask for.
SEEN_FROM = {"front": (0.0, 30.0), "side": (90.0, 30.0), "back": (180.0, 30.0), "overhead": (0.0, 70.0)}
# Of the mean distance between two prompts' pictures: less, and a thing looks the same from two sides.
SIDED = 0.25
RING_STEP = 15  # degrees between the cameras that tell where a picture was seen from
RING = [(a, e) for a in range(0, 360, RING_STEP) for e in range(0, 90, RING_STEP)]


class Judge(Protocol):
    """A scorer: unit features of pictures and of captions, [n, D]."""

    def embed_images(self, images: Sequence[np.ndarray] | np.ndarray) -> torch.Tensor:
        """Of uint8 pictures HWC."""
        ...

    def embed_texts(self, captions: Sequence[str]) -> torch.Tensor:
        """Of captions."""
        ...


@dataclass(frozen=True)
class Finding:
    """One measured figure of one of the two folders, and the bar it is held to; None: it is only noted."""

    of: Literal["toy-sd", "toy-clip"]
    name: str
    value: float
    bar: float | None
    at_least: bool = True

    @property
    def ok(self) -> bool:
        """Whether the bar, if any, is met."""
        if self.bar is None:
            return True
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    def __str__(self) -> str:
        if self.bar is None:
            return f"       {self.name}: {self.value:.5f}"
        sign = "≥" if self.at_least else "≤"
        return f"{'ok    ' if self.ok else 'MISSED'} {self.name}: {self.value:.3f} ({sign} {self.bar:g})"


def check(judge: Judge, retrieval: Retrieval, say: Say, prior: Path) -> list[Finding]:
    """Measure the weights; each finding is said as it is made."""
    guidance = Guidance.load(
        GuidanceConfig(prior=str(prior), dtype="float32", microbatch=16, cfg_scale=5.0), local_files_only=True
    )
    findings: list[Finding] = []
    for found in (
        check_vae(guidance),
        check_clip(judge, retrieval, guidance),
        check_prior(judge, retrieval, guidance),
    ):
        for finding in found:
            say(str(finding))
        findings += found
    return findings


# ---- the autoencoder


def check_vae(guidance: Guidance) -> list[Finding]:
    """Reconstruction of unseen views; of latents that suffer; and of every colour's mean."""
    rng = random.Random(f"check/{UNSEEN}")
    scenes = [data.scene(UNSEEN, index)[0] for index in range(SCENES)]
    clean = render([primitives(s) for s in scenes], data.cameras(rng, len(scenes)))
    pixels = torch.from_numpy(clean).permute(0, 3, 1, 2).float() / 255
    z = guidance.encode(pixels)
    hurt, target = disturb(z, pixels, generator(UNSEEN, 1), sigma=0.2)
    decoded = guidance.decode(hurt)
    worst = 0.0
    for colour in COLOURS:
        rows = [primitives(Scene(Thing(noun, colour))) for noun in KINDS]
        images = render(rows, data.cameras(rng, len(rows)))
        back = through_vae(guidance, images)
        solid = np.abs(images / 255 - np.array(BACKGROUND)).max(-1) > 0.06
        drift = (back[solid].astype(np.float32) - images[solid]).mean(0) / 255
        worst = max(worst, float(np.abs(drift).max()))
    return [
        Finding("toy-sd", "VAE reconstruction, dB", decibels(guidance.decode(z) - pixels), 32.0),
        Finding("toy-sd", "VAE, disturbed latents, dB", decibels(decoded - target), 24.0),
        Finding(
            "toy-sd", "VAE, lattice on disturbed latents", lattice(decoded - target), 0.01, at_least=False
        ),
        Finding("toy-sd", "VAE, largest drift of a colour's mean", worst, 0.06, at_least=False),
    ]


def lattice(error_NCHW: torch.Tensor, period: int = 4) -> float:
    """Root mean square of what of an error repeats with a latent's period, per picture, in 0…1.

    The error is averaged over all pixels that lie alike within their 4×4 cell, 16 means a channel, and the
    picture's own mean taken off: a smooth error leaves nothing, a pattern of dots leaves itself.
    """
    n, c, h, w = error_NCHW.shape
    cells = error_NCHW.reshape(n, c, h // period, period, w // period, period).mean((2, 4))
    return float((cells - cells.mean((2, 3), keepdim=True)).square().mean().sqrt())


# ---- the scorer


def check_clip(judge: Judge, retrieval: Retrieval, guidance: Guidance) -> list[Finding]:
    """Retrieval on ground truth, through the autoencoder and by shape; things told from spoilt ones."""
    prompts, views = data.suite_prompts(), ViewsConfig()
    truth = np.stack([ground_truth(prompt, views) for prompt in prompts])
    majority, per_view = mean(retrieval(truth, prompts, views.azimuths))
    coded = through_vae(guidance, truth.reshape(-1, *truth.shape[2:])).reshape(truth.shape)
    coded_majority, coded_view = mean(retrieval(coded, prompts, views.azimuths))
    return [
        Finding("toy-clip", "ground truth, majority of 8 views", majority, 0.97),
        Finding("toy-clip", "ground truth, per view", per_view, 0.92),
        Finding("toy-clip", "through the VAE, majority", coded_majority, majority - 0.04),
        Finding("toy-clip", "through the VAE, per view", coded_view, per_view - 0.04),
        Finding("toy-clip", "told from colours exchanged", told_apart(judge, _exchanged), 0.85),
        Finding("toy-clip", "told from a part misplaced", told_apart(judge, misplaced), 0.85),
        Finding("toy-clip", "noun of a shape without colours", nouns_of_shapes(judge), 0.90),
    ]


Spoilt = Callable[[Scene, random.Random], np.ndarray | None]


def _exchanged(scene: Scene, rng: random.Random) -> np.ndarray | None:
    twin = exchanged(scene)
    return None if twin is None else primitives(twin)


def told_apart(judge: Judge, spoil: Spoilt) -> float:
    """Share of views at which a caption is nearer to its thing than to the same thing spoilt (chance .5)."""
    rng = random.Random(f"check/{UNSEEN}/spoilt")
    right, wrong, texts = [], [], []
    for index in range(SCENES):
        scene = data.scene(UNSEEN, index)[0]
        spoilt = spoil(scene, rng)
        if spoilt is not None:
            right.append(primitives(scene))
            wrong.append(spoilt)
            texts.append(caption(scene))
    cameras = data.cameras(rng, len(texts))
    text = judge.embed_texts(texts)
    near, far = ((judge.embed_images(render(rows, cameras)) * text).sum(1) for rows in (right, wrong))
    return float((near > far).float().mean())


def nouns_of_shapes(judge: Judge) -> float:
    """Share of views without colours that retrieve their noun among all nouns' captions."""
    rng = random.Random(f"check/{UNSEEN}/shapes")
    scenes = [Scene(Thing(noun, "red")) for noun in KINDS for _ in range(8)]
    pictures = textureless(
        [primitives(s, rng) for s in scenes], data.cameras(rng, len(scenes)), torch.device("cpu")
    )
    texts = [without_colours(Scene(Thing(noun, "red"))) for noun in KINDS]
    found = (judge.embed_images(pictures.numpy()) @ judge.embed_texts(texts).T).argmax(1)
    return float((found == torch.arange(len(KINDS)).repeat_interleave(8)).float().mean())


# ---- the prior


def check_prior(judge: Judge, retrieval: Retrieval, guidance: Guidance) -> list[Finding]:
    """DDIM samples of the suite for each of the views: retrieved, seen from where they should be, their
    colours where they belong, and how far their features lie from ground truth's."""
    prompts = data.suite_prompts()
    noise_NCHW = torch.randn(len(prompts), *guidance.latent_shape, generator=generator(UNSEEN, 0))
    drawn = {view: to_uint8(sample(guidance, prompts, view, noise_NCHW, DDIM_STEPS)) for view in VIEWS}
    hits = {view: mean(retrieval(images[:, None], prompts, 1))[1] for view, images in drawn.items()}
    truth = {view: _truth(prompts, *SEEN_FROM[view]) for view in VIEWS}
    features = {view: judge.embed_images(images) for view, images in drawn.items()}
    expected = {view: judge.embed_images(images) for view, images in truth.items()}
    coded = judge.embed_images(through_vae(guidance, truth["front"]))
    everywhere = float(np.mean(list(hits.values())))
    return [
        Finding("toy-sd", "samples retrieve their prompt, front", hits["front"], 0.95),
        Finding("toy-sd", "samples retrieve their prompt, all views", everywhere, 0.90),
        *check_views(judge, prompts, features, expected),
        Finding("toy-sd", "samples bind colours to what has them", bound(judge, prompts, features), 0.90),
        Finding("toy-sd", "samples' distance to truth", distance(features["front"], expected["front"]), None),
        Finding("toy-sd", "the VAE's own distance to truth", distance(coded, expected["front"]), None),
    ]


def _truth(prompts: Sequence[str], azimuth: float, elevation: float) -> np.ndarray:
    cameras = np.tile([azimuth, elevation, 2.8, 40.0], (len(prompts), 1))
    return render([primitives(parse(prompt)) for prompt in prompts], cameras)


def check_views(
    judge: Judge, prompts: Sequence[str], features: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]
) -> list[Finding]:
    """Whether samples are seen from the view asked for, of prompts whose four ground truths all differ.

    Beside it: what ground truth of such views reaches itself, and what samples of other views do (chance).

    Two views differ where their distance is more than `SIDED` of that between two prompts' front views.
    """
    seen_V = torch.stack([expected[view] for view in VIEWS])  # [4, N, D]
    apart = (seen_V[0] - seen_V[0].roll(1, 0)).norm(dim=1).mean()
    between_VVN = (seen_V[:, None] - seen_V[None]).norm(dim=-1) + torch.eye(len(VIEWS))[..., None] * 1e9
    sided: list[int] = (between_VVN.amin((0, 1)) > SIDED * apart).nonzero()[:, 0].tolist()
    if not sided:
        return [Finding("toy-sd", "samples are seen from the view asked for", math.nan, 0.90)]
    solids = [primitives(parse(prompts[n])) for n in sided]
    ring_CND = torch.stack(
        [judge.embed_images(render(solids, np.tile([*c, 2.8, 40.0], (len(solids), 1)))) for c in RING]
    )
    rng = random.Random(f"check/views/{UNSEEN}")
    true = {
        view: judge.embed_images(render(solids, np.stack([_camera_of(view, rng) for _ in solids])))
        for view in VIEWS
    }
    samples = {view: features[view][sided] for view in VIEWS}
    turned = [dict(zip(VIEWS, [*VIEWS[k:], *VIEWS[:k]], strict=True)) for k in range(1, len(VIEWS))]
    others = [followed({view: samples[turn[view]] for view in VIEWS}, ring_CND) for turn in turned]
    return [
        Finding("toy-sd", "samples are seen from the view asked for", followed(samples, ring_CND), 0.90),
        Finding("toy-sd", "ground truth seen from there", followed(true, ring_CND), None),
        Finding("toy-sd", "samples of the other views", float(np.mean(others)), None),
    ]


def followed(features: dict[str, torch.Tensor], ring_CND: torch.Tensor) -> float:
    """Share of pictures [N, D] a view that were seen from it.

    Seen from it: of the prompt's ground truths from the cameras of `RING` (features [C, N, D]) the nearest
    belongs to the view's sector, or lies one step of the ring beside it.
    """
    near = range(-RING_STEP, RING_STEP + 1, RING_STEP)
    sectors = [{view_name(a + da, e + de) for da in near for de in near} for a, e in RING]
    return float(
        np.mean(
            [
                [view in sectors[c] for c in (f[None] - ring_CND).norm(dim=-1).argmin(0).tolist()]
                for view, f in features.items()
            ]
        )
    )


def _camera_of(view: str, rng: random.Random) -> np.ndarray:
    """A camera as training draws them, of the view."""
    while view_name(*(camera := data.cameras(rng, 1)[0])[:2]) != view:
        pass
    return camera


def bound(judge: Judge, prompts: Sequence[str], features: dict[str, torch.Tensor]) -> float:
    """Share of samples of two-coloured captions that lie nearer to theirs than to the same with the colours
    exchanged, over the views (chance .5)."""
    twins = [exchanged(parse(prompt)) for prompt in prompts]
    two = [n for n, twin in enumerate(twins) if twin is not None]
    own = judge.embed_texts([prompts[n] for n in two])
    other = judge.embed_texts([caption(twin) for twin in twins if twin is not None])
    return float(torch.stack([(f[two] * (own - other)).sum(1) > 0 for f in features.values()]).float().mean())


def distance(a_ND: torch.Tensor, b_ND: torch.Tensor) -> float:
    """Squared maximum mean discrepancy of two sets of unit features under (1 + x·y)³, without the terms of a
    picture with itself (KID's estimator, Bińkowski et al. 2018); 0 in the mean for equal populations."""

    def within(x: torch.Tensor) -> torch.Tensor:
        k = (1 + x @ x.T) ** 3
        return (k.sum() - k.diagonal().sum()) / (len(x) * (len(x) - 1))

    a, b = a_ND.double(), b_ND.double()
    return float(within(a) + within(b) - 2 * ((1 + a @ b.T) ** 3).mean())


def mean(scores: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Means over prompts."""
    majority, per_view = np.mean(scores, axis=0)
    return float(majority), float(per_view)


def through_vae(guidance: Guidance, images_NHWC: np.ndarray) -> np.ndarray:
    """uint8 images encoded and decoded."""
    pixels = torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).float() / 255
    return to_uint8(guidance.decode(guidance.encode(pixels)))


def to_uint8(images_NCHW: torch.Tensor) -> np.ndarray:
    """[0, 1] floats to uint8 [N, H, W, 3]."""
    return (images_NCHW * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
