"""What the toy weights must show, on scenes and cameras they were not trained on."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from harness.config import GuidanceConfig, ViewsConfig
from harness.guidance.prior import Guidance
from harness.guidance.sampling import sample
from harness.toyworld import data
from harness.toyworld.grammar import COLOURS, KINDS, Scene, Thing
from harness.toyworld.objects import primitives
from harness.toyworld.render import BACKGROUND, ground_truth, render
from harness.toyworld.training import Say, generator

# Scores of uint8 views [N, V, H, W, 3] against a pool of N captions, view set n belonging to caption n:
# majority and share over the first `ring` views. R-Precision lives above this package and is handed in.
Retrieval = Callable[[np.ndarray, Sequence[str], int], Sequence[tuple[float, float]]]
UNSEEN = 1  # a seed no training used


@dataclass(frozen=True)
class Finding:
    """One measured figure and the bar it is held to."""

    name: str
    value: float
    bar: float
    at_least: bool = True

    @property
    def ok(self) -> bool:
        """Whether the bar is met."""
        return self.value >= self.bar if self.at_least else self.value <= self.bar


def check(retrieval: Retrieval, say: Say) -> list[Finding]:
    """Measure the shipped weights; each finding is said as it is made."""
    prompts = data.suite_prompts()
    guidance = Guidance.load(
        GuidanceConfig(dtype="float32", microbatch=16, cfg_scale=5.0), local_files_only=True
    )
    views = ViewsConfig()
    findings: list[Finding] = []

    def found(*new: Finding) -> None:
        for finding in new:
            sign = "≥" if finding.at_least else "≤"
            verdict = "ok    " if finding.ok else "MISSED"
            say(f"{verdict} {finding.name}: {finding.value:.3f} ({sign} {finding.bar:g})")
        findings.extend(new)

    found(*check_vae(guidance))
    truth = np.stack([ground_truth(prompt, views) for prompt in prompts])
    majority, per_view = mean(retrieval(truth, prompts, views.azimuths))
    found(
        Finding("toy-clip on ground truth, majority of 8 views", majority, 0.95),
        Finding("toy-clip on ground truth, per view", per_view, 0.88),
    )
    coded = through_vae(guidance, truth.reshape(-1, *truth.shape[2:])).reshape(truth.shape)
    coded_majority, coded_view = mean(retrieval(coded, prompts, views.azimuths))
    found(
        Finding("toy-clip through the VAE, majority", coded_majority, majority - 0.04),
        Finding("toy-clip through the VAE, per view", coded_view, per_view - 0.04),
    )
    noise_NCHW = torch.randn(len(prompts), *guidance.latent_shape, generator=generator(UNSEEN, 0))
    drawn = sample(guidance, prompts, "front", noise_NCHW)
    _, hits = mean(retrieval(to_uint8(drawn)[:, None], prompts, 1))
    found(Finding("DDIM samples retrieve their prompt, front view", hits, 0.80))
    return findings


def mean(scores: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Means over prompts."""
    majority, per_view = np.mean(scores, axis=0)
    return float(majority), float(per_view)


def check_vae(guidance: Guidance) -> list[Finding]:
    """Reconstruction of 600 unseen views, and of every colour's mean over objects of that colour."""
    rng = random.Random(f"check/{UNSEEN}")
    scenes = [data.scene(UNSEEN, index)[0] for index in range(600)]
    clean = render([primitives(s) for s in scenes], data.cameras(rng, len(scenes)))
    error = (through_vae(guidance, clean).astype(np.float32) - clean) / 255
    psnr = float(-10 * np.log10(np.square(error).mean()))
    worst = 0.0
    for colour in COLOURS:
        rows = [primitives(Scene(Thing(noun, colour))) for noun in KINDS]
        images = render(rows, data.cameras(rng, len(rows)))
        back = through_vae(guidance, images)
        solid = np.abs(images / 255 - np.array(BACKGROUND)).max(-1) > 0.06
        drift = (back[solid].astype(np.float32) - images[solid]).mean(0) / 255
        worst = max(worst, float(np.abs(drift).max()))
    return [
        Finding("VAE reconstruction, dB", psnr, 30.0),
        Finding("VAE, largest drift of a colour's mean", worst, 0.06, at_least=False),
    ]


def through_vae(guidance: Guidance, images_NHWC: np.ndarray) -> np.ndarray:
    """uint8 images encoded and decoded."""
    pixels = torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).float() / 255
    return to_uint8(guidance.decode(guidance.encode(pixels)))


def to_uint8(images_NCHW: torch.Tensor) -> np.ndarray:
    """[0, 1] floats to uint8 [N, H, W, 3]."""
    return (images_NCHW * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
