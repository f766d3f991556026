"""Stable Diffusion 1.x and 2.x: one CLIP text encoder; 2.x predicts v."""

from __future__ import annotations

from typing import ClassVar

from harness.guidance.architectures import (
    CLIP,
    CLIP_H,
    CLIP_L,
    CLIP_WORDS,
    DDIM_NOISE,
    KL,
    SD_NOISE,
    SD_UNET,
    TINY_CLIP,
    TINY_SD_UNET,
    UNET,
    Architecture,
    Part,
    autoencoder,
)
from harness.guidance.family import Family

ARCHITECTURES = {
    "sd14": Architecture(
        source="CompVis/stable-diffusion-v1-4",
        parts={
            "unet": Part(UNET, SD_UNET, TINY_SD_UNET),
            "vae": autoencoder(),
            "text_encoder": Part(CLIP, CLIP_L, TINY_CLIP),
            "scheduler": Part(
                "diffusers.PNDMScheduler", {**SD_NOISE, "set_alpha_to_one": False, "skip_prk_steps": True}
            ),
        },
        tokenizers={"tokenizer": "clip"},
        absent=("safety_checker", "feature_extractor", "image_encoder"),
        extra={"requires_safety_checker": False},
    ),
    "sd21": Architecture(
        source="stabilityai/stable-diffusion-2-1",
        parts={
            "unet": Part(
                UNET,
                {
                    **SD_UNET,
                    "sample_size": 96,
                    "cross_attention_dim": 1024,
                    "attention_head_dim": (5, 10, 20, 20),
                    "use_linear_projection": True,
                    "upcast_attention": True,
                },
                {**TINY_SD_UNET, "attention_head_dim": (2, 4)},
            ),
            "vae": autoencoder(sample_size=768),
            "text_encoder": Part(CLIP, CLIP_H, TINY_CLIP),
            "scheduler": Part("diffusers.DDIMScheduler", {**DDIM_NOISE, "prediction_type": "v_prediction"}),
        },
        tokenizers={"tokenizer": "clip!"},
        absent=("safety_checker", "feature_extractor", "image_encoder"),
        extra={"requires_safety_checker": False},
    ),
}


class StableDiffusion(Family):
    """See the module; latents are the code times its scaling factor."""

    pipeline = "StableDiffusionPipeline"
    models: ClassVar = {"unet": UNET, "vae": KL, "text_encoder": CLIP}
    tokenizers: ClassVar = {"tokenizer": CLIP_WORDS}
    architectures = ARCHITECTURES
