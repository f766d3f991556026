"""Stable Diffusion 1.x and 2.x: one CLIP text encoder; 2.x predicts v."""

from __future__ import annotations

from typing import ClassVar

from harness.guidance import architectures as of
from harness.guidance.family import Family

ARCHITECTURES = {
    "sd14": of.Architecture(
        source="CompVis/stable-diffusion-v1-4",
        parts={
            "unet": of.Part(of.UNET, of.SD_UNET, of.TINY_SD_UNET),
            "vae": of.autoencoder(),
            "text_encoder": of.Part(of.CLIP, of.CLIP_L, of.TINY_CLIP),
            "scheduler": of.Part(
                "diffusers.PNDMScheduler", {**of.SD_NOISE, "set_alpha_to_one": False, "skip_prk_steps": True}
            ),
        },
        tokenizers={"tokenizer": "clip"},
        absent=("safety_checker", "feature_extractor", "image_encoder"),
        extra={"requires_safety_checker": False},
    ),
    "sd21": of.Architecture(
        source="stabilityai/stable-diffusion-2-1",
        parts={
            "unet": of.Part(
                of.UNET,
                {
                    **of.SD_UNET,
                    "sample_size": 96,
                    "cross_attention_dim": 1024,
                    "attention_head_dim": (5, 10, 20, 20),
                    "use_linear_projection": True,
                    "upcast_attention": True,
                },
                {**of.TINY_SD_UNET, "attention_head_dim": (2, 4)},
            ),
            "vae": of.autoencoder(sample_size=768),
            "text_encoder": of.Part(of.CLIP, of.CLIP_H, of.TINY_CLIP),
            "scheduler": of.Part(
                "diffusers.DDIMScheduler", {**of.DDIM_NOISE, "prediction_type": "v_prediction"}
            ),
        },
        tokenizers={"tokenizer": "clip!"},
        absent=("safety_checker", "feature_extractor", "image_encoder"),
        extra={"requires_safety_checker": False},
    ),
}


class StableDiffusion(Family):
    """See the module; latents are the code times its scaling factor."""

    pipeline = "StableDiffusionPipeline"
    models: ClassVar = {"unet": of.UNET, "vae": of.KL, "text_encoder": of.CLIP}
    tokenizers: ClassVar = {"tokenizer": of.CLIP_WORDS}
    architectures = ARCHITECTURES
