"""The toy autoencoder: 64×64×3 pixels to 16×16×4 latents of zero mean and unit variance."""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from harness.toyworld.data import ToyImages
from harness.toyworld.training import Outcome, Say, Schedule, generator, train

SCHEDULE = Schedule(steps=3200, lr=1.5e-3, weight_decay=0.0, average=0.998)
BATCH = 16
KL = 1e-6


def new_vae() -> Any:
    """An untrained autoencoder of the shipped architecture."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,  # type: ignore[arg-type]
        up_block_types=("UpDecoderBlock2D",) * 3,  # type: ignore[arg-type]
        block_out_channels=(16, 32, 96),  # type: ignore[arg-type]
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def to_model(images_NHWC: torch.Tensor) -> torch.Tensor:
    """uint8 [N, H, W, 3] to float [N, 3, H, W] in −1…1."""
    return images_NHWC.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def train_vae(
    work: Path, data: ToyImages, seed: int, say: Say, schedule: Schedule = SCHEDULE
) -> tuple[Any, Outcome]:
    """Train on pixels: L1 and squared error, with a small pull of the latents to a unit Gaussian."""
    torch.manual_seed(seed)
    vae = new_vae()
    pixels = torch.from_numpy(data.images)

    def loss_of(step: int) -> torch.Tensor:
        draw = generator(seed, step)
        x = to_model(pixels[torch.randint(len(pixels), (BATCH,), generator=draw)])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=draw)
            y = vae.decode(posterior.mean + posterior.std * noise).sample
        error = (y.float() - x).clamp(-4, 4)
        # The mean colour of 8×8 patches is what the eye compares first, and what a squared error learns last.
        patches = F.avg_pool2d(error, 8).abs().mean()
        return error.abs().mean() + 4 * error.square().mean() + patches + KL * posterior.kl().mean()

    def check(step: int) -> str:
        some = pixels[:: max(1, len(pixels) // 128)][:128]
        return f"step {step}: {psnr(some, reconstruct(vae, some)):.2f} dB"

    outcome = train("vae", work, vae, loss_of, schedule, say, check=check)
    standardise(vae, pixels[:: max(1, len(pixels) // 2048)])
    return vae.eval(), outcome


@torch.no_grad()
def standardise(vae: Any, images_NHWC: torch.Tensor) -> None:
    """Fold each latent channel's mean and spread into the 1×1 convolutions on both sides of the latent.

    The diffusion model then sees unit variance per channel with a scaling factor of 1.
    """
    z = torch.cat([vae.encode(to_model(part)).latent_dist.mean for part in images_NHWC.split(64)])
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    into, out = vae.quant_conv, vae.post_quant_conv
    assert into is not None and out is not None and into.bias is not None and out.bias is not None
    channels = len(mean)
    into.weight[:channels] /= std[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) / std
    into.bias[channels:] -= 2 * std.log()  # the log-variance of the rescaled latent
    out.bias += torch.einsum("oi,i->o", out.weight[:, :, 0, 0], mean)
    out.weight *= std[None, :, None, None]


@torch.no_grad()
def encode_all(vae: Any, data: ToyImages, cache: Path) -> torch.Tensor:
    """Mean latents [N, 4, 16, 16] of the whole set in half precision, kept in `cache`."""
    if cache.exists():
        return load_file(cache)["latents"]
    parts = torch.from_numpy(data.images).split(64)
    with torch.autocast("cpu", torch.bfloat16):
        coded = [vae.encode(to_model(part)).latent_dist.mean.half() for part in parts]
    latents = torch.cat(coded).contiguous()
    save_file({"latents": latents}, cache.with_suffix(".partial"))
    cache.with_suffix(".partial").rename(cache)
    return latents


@torch.no_grad()
def reconstruct(vae: Any, images_NHWC: torch.Tensor) -> torch.Tensor:
    """uint8 images through the autoencoder and back to uint8."""
    out = []
    for part in images_NHWC.split(64):
        y = vae.decode(vae.encode(to_model(part)).latent_dist.mean).sample
        out.append(y.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1))
    return torch.cat(out)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 batches, from the mean squared error over all of it."""
    mse = (a.float() - b.float()).square().mean() / 255**2
    return float(-10 * mse.log10())
