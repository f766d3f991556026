"""The toy latent diffusion model: a UNet and its own text encoder, trained together on captioned latents."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel

from harness.config import UserError, first_line
from harness.guidance.prior import quieten_libraries
from harness.toyworld.data import Ring
from harness.toyworld.grammar import caption
from harness.toyworld.training import Budget, Outcome, Say, Schedule, generator, mixed, train
from harness.toyworld.vae import encode as vae_encode
from harness.toyworld.words import CONTEXT, clip_tokenizer, vocabulary_size

SCHEDULE = Schedule(lr=1e-3, muon=0.02)
BATCH, BATCH_CUDA = 48, 512
DROPOUT, BARE = 0.1, 0.1  # shares of captions left empty, and left without view words
SNR_CAP = 5.0
NOISE = {  # Stable Diffusion's
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "prediction_type": "epsilon",
}


class Denoiser(torch.nn.Module):
    """The two trained halves: `text` makes the sequence that `unet` attends to."""

    def __init__(self) -> None:
        super().__init__()
        self.text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocabulary_size(),
                hidden_size=128,
                intermediate_size=512,
                num_hidden_layers=3,
                num_attention_heads=4,
                max_position_embeddings=CONTEXT,
                hidden_act="gelu",
                bos_token_id=vocabulary_size() - 2,
                eos_token_id=vocabulary_size() - 1,
                pad_token_id=vocabulary_size() - 1,
            )
        )
        self.unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(64, 96, 160),
            layers_per_block=1,
            cross_attention_dim=128,
            attention_head_dim=(2, 3, 5),  # type: ignore[arg-type]  # heads, in spite of its name
            norm_num_groups=16,
            # The caption, pooled, reaches every residual block beside the time, 16×16 without attention too.
            addition_embed_type="text",
            addition_embed_type_num_heads=4,
            resnet_time_scale_shift="scale_shift",
        )

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """ε̂ [N, 4, 16, 16] from noisy latents, timesteps [N] and token ids [N, D]."""
        states = self.text(ids).last_hidden_state
        return self.unet(x_t, t, encoder_hidden_states=states).sample


def train_denoiser(
    work: Path,
    model: Denoiser,
    vae: Any,
    ring: Ring,
    seed: int,
    budget: Budget,
    say: Say,
    schedule: Schedule = SCHEDULE,
) -> Outcome:
    """Train in place: ε-prediction with min-SNR weights (Hang et al. 2023, γ = 5), and captions left out now
    and then for guidance."""
    device = ring.images.device
    # Channels last trains a sixth faster on CPUs.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    predict: Any = torch.compile(model) if device.type == "cuda" else model
    noise = DDPMScheduler(**NOISE)
    abar = noise.alphas_cumprod.to(device)
    snr = abar / (1 - abar)
    weight = snr.clamp(max=SNR_CAP) / snr
    latents = torch.zeros((len(ring), 4, 16, 16), dtype=torch.float16, device=device)
    ids = torch.zeros((3, len(ring), CONTEXT), dtype=torch.int64)
    batch = BATCH if device.type == "cpu" else BATCH_CUDA

    def renew(step: int) -> None:
        places = torch.from_numpy(ring.advance(step))
        if len(places):
            latents[places.to(device)] = vae_encode(vae, ring.images[places.to(device)])
            some = places.tolist()
            ids[:, places] = tokens([caption(ring.scenes[i]) for i in some], [ring.views[i] for i in some])

    def loss_of(step: int) -> torch.Tensor:
        renew(step)
        draw, rng = generator(seed + 2, step), random.Random(f"{seed}/denoiser/{step}")
        index = torch.tensor(ring.draw(rng, batch))
        z = latents[index.to(device)].float()
        eps = torch.randn(z.shape, generator=draw).to(device)
        t = torch.randint(0, len(abar), (batch,), generator=draw).to(device)
        kind = torch.rand(batch, generator=draw)
        which = (kind < DROPOUT).long() * 2 + ((kind >= DROPOUT) & (kind < DROPOUT + BARE)).long()
        with mixed(device):
            x_t: Any = noise.add_noise(z, eps, t)  # type: ignore[arg-type]
            predicted = predict(x_t, t, ids[which, index].to(device))
        error = F.mse_loss(predicted.float(), eps, reduction="none").mean((1, 2, 3))
        return (weight[t] * error).mean()

    return train("denoiser", work, model, loss_of, schedule, budget, say)


def tokens(captions: Sequence[str], views: Sequence[str]) -> torch.Tensor:
    """Token ids [3, N, D]: the caption with its view words, without them, and the empty caption."""
    tokenize = clip_tokenizer()
    with_view = [f"{text}, {view} view" for text, view in zip(captions, views, strict=True)]

    def ids(texts: Sequence[str]) -> torch.Tensor:
        batch = tokenize(
            list(texts), padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
        )
        return batch["input_ids"]

    return torch.stack([ids(with_view), ids(captions), ids([""] * len(captions))])


def save_prior(vae: AutoencoderKL, model: Denoiser, folder: Path) -> None:
    """A diffusers StableDiffusionPipeline folder in half precision; the modules are halved in place."""
    quieten_libraries()
    StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=model.text.half(),
        tokenizer=clip_tokenizer(),
        unet=model.unet.half(),
        scheduler=DDIMScheduler(**NOISE, set_alpha_to_one=False, steps_offset=1),  # type: ignore[arg-type]
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True, max_shard_size="16MB")


def load_prior(folder: Path) -> tuple[Any, Denoiser]:
    """The autoencoder and the denoiser of a prior that `save_prior` wrote, in float32, to be trained on.

    Raises UserError for a folder that holds none.
    """
    quieten_libraries()
    try:
        pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)
        model = Denoiser()
        model.text.load_state_dict(pipe.text_encoder.state_dict())
        model.unet.load_state_dict(pipe.unet.state_dict())
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder} holds no prior of the toy world: {first_line(error)}") from error
    return pipe.vae.float(), model.float()
