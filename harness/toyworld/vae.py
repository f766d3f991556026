"""The toy autoencoder: 64×64×3 pixels to 16×16×4 latents of zero mean and unit variance."""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch.nn import functional as F

from harness.toyworld.data import Ring
from harness.toyworld.training import Budget, Outcome, Say, Schedule, generator, mixed, train

SCHEDULE = Schedule(lr=1.5e-3, weight_decay=0.0)
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
    work: Path,
    vae: Any,
    ring: Ring,
    seed: int,
    budget: Budget,
    say: Say,
    schedule: Schedule = SCHEDULE,
    decoder_only: bool = False,
) -> Outcome:
    """Train in place: L1 and squared error, with a small pull of the latents to a unit Gaussian.

    Half of the pictures are decoded from latents that suffered what distillation does to them, and must come
    out as if they had not (`disturb`); a shift of the latent is a shift of the picture (EQ-VAE, arXiv
    2502.09509). `decoder_only` leaves the latents what they are.
    """
    device = ring.images.device
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(not decoder_only)

    def loss_of(step: int) -> torch.Tensor:
        ring.advance(step)
        draw = generator(seed, step)
        x = to_model(ring.images[torch.randint(len(ring), (BATCH,), generator=draw).to(device)])
        with mixed(device):
            posterior = vae.encode(x).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=draw).to(device)
            z, target = posterior.mean + posterior.std * noise, x
            hurt, moved = disturb(z[BATCH // 2 :], target[BATCH // 2 :], draw)
            z, target = torch.cat([z[: BATCH // 2], hurt]), torch.cat([target[: BATCH // 2], moved])
            y = vae.decode(z).sample
        error = (y.float() - target).clamp(-4, 4)
        # The mean colour of 8×8 patches is what the eye compares first, and what a squared error learns last.
        patches = F.avg_pool2d(error, 8).abs().mean()
        return error.abs().mean() + 4 * error.square().mean() + patches + KL * posterior.kl().mean()

    def check(step: int) -> str:
        some = ring.images[:: max(1, len(ring) // 128)][:128]
        return f"step {step}: {decibels((some.float() - reconstruct(vae, some)) / 255):.2f} dB"

    outcome = train("vae", work, vae, loss_of, schedule, budget, say, check=check)
    if not decoder_only:
        standardise(vae, ring.images[:: max(1, len(ring) // 2048)])
    return outcome


def disturb(
    z_NCHW: torch.Tensor, x_NCHW: torch.Tensor, draw: torch.Generator, sigma: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents with noise of `sigma` times their spread (None: of up to .25), gains of .9 to 1.15 and, half of
    them, shifts of up to half a latent; and the pictures that they should decode to."""
    n, device = len(z_NCHW), z_NCHW.device

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return (torch.rand(shape, generator=draw) * (high - low) + low).to(device)

    centre = z_NCHW.detach().mean((0, 2, 3), keepdim=True)
    spread = z_NCHW.detach().std((0, 2, 3), keepdim=True)
    z = centre + uniform(0.9, 1.15, n, 1, 1, 1) * (z_NCHW - centre)
    offset = uniform(-0.5, 0.5, n, 2) * (uniform(0, 1, n, 1) < 0.5)
    z, x = shift(z, offset), shift(x_NCHW, offset * (x_NCHW.shape[-1] / z_NCHW.shape[-1]))
    noise = uniform(0, 0.25, n, 1, 1, 1) if sigma is None else sigma
    return z + noise * spread * torch.randn(z.shape, generator=draw).to(device), x


def shift(x_NCHW: torch.Tensor, offset_N2: torch.Tensor) -> torch.Tensor:
    """Pictures moved by (x, y) of their own pixels, bilinearly; the edge repeats."""
    theta = torch.eye(2, 3, device=x_NCHW.device).repeat(len(x_NCHW), 1, 1)
    theta[:, :, 2] = -offset_N2 * 2 / x_NCHW.shape[-1]
    grid = F.affine_grid(theta, list(x_NCHW.shape), align_corners=False)
    return F.grid_sample(x_NCHW.float(), grid, padding_mode="border", align_corners=False)


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
def encode(vae: Any, images_NHWC: torch.Tensor) -> torch.Tensor:
    """Mean latents [N, 4, 16, 16] in half precision, on the pictures' device."""
    with mixed(images_NHWC.device):
        parts = [vae.encode(to_model(part)).latent_dist.mean.half() for part in images_NHWC.split(64)]
    return torch.cat(parts)


@torch.no_grad()
def reconstruct(vae: Any, images_NHWC: torch.Tensor) -> torch.Tensor:
    """uint8 images through the autoencoder and back to uint8."""
    out = []
    for part in images_NHWC.split(64):
        y = vae.decode(vae.encode(to_model(part)).latent_dist.mean).sample
        out.append(y.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1))
    return torch.cat(out)


def decibels(error: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of an error of pictures in 0…1, from the mean square over all of it."""
    return float(-10 * error.double().square().mean().log10())
