"""The prior's own images of a prompt, and what its autoencoder makes of others'."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from harness import rng
from harness.config import SPEC_VERSION, GuidanceConfig
from harness.guidance.prior import Guidance, held
from harness.guidance.sampling import sample
from harness.objects.final import encoded, pictures
from harness.records.files import strip, tiles, write_cache
from harness.records.identity import canonical_json, slug
from harness.records.stamp import must_be

CFG_SCALE = 7.5  # Stable Diffusion's default for sampling; a run's own scale is for distillation
STEPS = 50
VIEW = "front"
BATCH = 16


def prior_samples(
    root: Path, cfg: GuidanceConfig, prior_hash: str, prompts: Sequence[str], count: int, device: str
) -> dict[str, np.ndarray]:
    """`count` DDIM samples of each prompt's front view, seeds 0…count−1, [count, H, W, 3] uint8.

    Cached in `<root>/eval/samples-<key>/`. Raises UserError where the prior is not on this machine.
    """
    cfg = cfg.model_copy(update={"cfg_scale": CFG_SCALE, "microbatch": 2 * min(count, BATCH)})
    asked = cfg.model_dump(mode="json", exclude={"prior"} if cfg.content else None)
    parts = [SPEC_VERSION, asked, prior_hash, CFG_SCALE, STEPS, VIEW, count]
    key = hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:12]
    folder = root / "eval" / f"samples-{key}"
    paths = {prompt: folder / f"{slug(prompt)}-{_digest(prompt)}.png" for prompt in prompts}
    missing = [prompt for prompt in prompts if not paths[prompt].is_file()]
    drawn: dict[str, bytes] = {}
    if missing:
        guidance = held(cfg, device, local_files_only=True)
        must_be(guidance.record, prior_hash)
        for prompt in missing:
            drawn[prompt] = _draw(guidance, prompt, count)
            write_cache(paths[prompt], drawn[prompt])
    return {prompt: tiles(drawn.get(prompt) or path.read_bytes()) for prompt, path in paths.items()}


def reconstructed(
    cfg: GuidanceConfig, images: Mapping[str, np.ndarray], device: str
) -> dict[str, np.ndarray]:
    """Images, uint8 [V, H, W, 3] by name, encoded and decoded by the prior. Raises UserError as above."""
    guidance = held(cfg.model_copy(update={"perturb": 0.0}), device, local_files_only=True)
    with torch.inference_mode():
        return {
            name: pictures(guidance, encoded(guidance, images_VHWC)).numpy()
            for name, images_VHWC in images.items()
        }


def _draw(guidance: Guidance, prompt: str, count: int) -> bytes:
    keys = [rng.Key(prompt, seed) for seed in range(count)]
    noise_NCHW = rng.normal(keys, [0] * count, "eval", guidance.latent_shape)
    images_NCHW = sample(guidance, [prompt] * count, VIEW, noise_NCHW, STEPS)
    tiles_NHWC = (images_NCHW * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return strip(tiles_NHWC)


def _digest(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()[:8]
