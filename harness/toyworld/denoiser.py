"""The toy latent diffusion model: a UNet and its own text encoder, trained together on captioned latents."""

import random
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel

from harness.toyworld.data import ToyImages
from harness.toyworld.training import Outcome, Say, Schedule, generator, train
from harness.toyworld.words import CONTEXT, clip_tokenizer, vocabulary_size

SCHEDULE = Schedule(steps=3150, lr=1e-3, weight_decay=0.01, average=0.998)
BATCH = 48
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
    work: Path, data: ToyImages, latents: torch.Tensor, seed: int, say: Say, schedule: Schedule = SCHEDULE
) -> tuple[Denoiser, Outcome]:
    """ε-prediction with min-SNR weights (Hang et al. 2023, γ = 5) and caption dropout for guidance."""
    torch.manual_seed(seed + 2)
    # Channels last trains a sixth faster on CPUs.
    model = Denoiser().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    noise = DDPMScheduler(**NOISE)
    abar = noise.alphas_cumprod
    snr = abar / (1 - abar)
    weight = snr.clamp(max=SNR_CAP) / snr
    ids = tokens(data)
    groups = data.by_noun()

    def loss_of(step: int) -> torch.Tensor:
        draw, rng = generator(seed + 2, step), random.Random(f"{seed}/denoiser/{step}")
        index = torch.tensor([rng.choice(rng.choice(groups)) for _ in range(BATCH)])
        z = latents[index].float()
        eps = torch.randn(z.shape, generator=draw)
        t = torch.randint(0, len(abar), (BATCH,), generator=draw)
        kind = torch.rand(BATCH, generator=draw)
        which = (kind < DROPOUT).long() * 2 + ((kind >= DROPOUT) & (kind < DROPOUT + BARE)).long()
        with torch.autocast("cpu", torch.bfloat16):
            predicted = model(noise.add_noise(z, eps, t), t, ids[which, index])  # type: ignore[arg-type]
        error = F.mse_loss(predicted.float(), eps, reduction="none").mean((1, 2, 3))
        return (weight[t] * error).mean()

    outcome = train("denoiser", work, model.train(), loss_of, schedule, say)
    return model.eval(), outcome


def tokens(data: ToyImages) -> torch.Tensor:
    """Token ids [3, N, D]: the caption with its view words, without them, and the empty caption."""
    tokenize = clip_tokenizer()
    with_view = [f"{c}, {v} view" for c, v in zip(data.captions, data.views, strict=True)]

    def ids(texts: list[str]) -> torch.Tensor:
        batch = tokenize(
            texts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
        )
        return batch["input_ids"]

    return torch.stack([ids(with_view), ids(data.captions), ids([""] * len(data))])


def save_prior(vae: AutoencoderKL, model: Denoiser, folder: Path) -> None:
    """A diffusers StableDiffusionPipeline folder in half precision; the modules are halved in place."""
    StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=model.text.half(),
        tokenizer=clip_tokenizer(),
        unet=model.unet.half(),
        scheduler=DDIMScheduler(**NOISE, set_alpha_to_one=False, steps_offset=1),  # type: ignore[arg-type]
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)
