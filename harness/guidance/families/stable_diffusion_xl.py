"""SDXL (Podell et al. 2023): two text encoders side by side, a pooled embedding, and the picture's size."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from harness.guidance import architectures as of
from harness.guidance.checks import UNET_INPUTS
from harness.guidance.family import Family, with_pooled

if TYPE_CHECKING:
    from torch import Tensor


ARCHITECTURES = {
    "sdxl": of.Architecture(
        source="stabilityai/stable-diffusion-xl-base-1.0",
        parts={
            "unet": of.Part(
                of.UNET,
                {
                    **of.SD_UNET,
                    "sample_size": 128,
                    "block_out_channels": (320, 640, 1280),
                    "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
                    "up_block_types": (*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
                    "transformer_layers_per_block": (1, 2, 10),
                    "cross_attention_dim": 2048,
                    "attention_head_dim": (5, 10, 20),
                    "use_linear_projection": True,
                    "addition_embed_type": "text_time",
                    "addition_time_embed_dim": 256,
                    "projection_class_embeddings_input_dim": 2816,
                },
                {
                    **of.TINY_SD_UNET,
                    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
                    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
                    "transformer_layers_per_block": (1, 2),
                    "cross_attention_dim": 40,
                    "attention_head_dim": (2, 4),
                    "addition_time_embed_dim": 8,
                    "projection_class_embeddings_input_dim": 6 * 8 + 24,
                },
            ),
            "vae": of.autoencoder(sample_size=1024, scaling_factor=0.13025, force_upcast=True),
            "text_encoder": of.Part(of.CLIP, of.CLIP_L, of.TINY_CLIP),
            "text_encoder_2": of.Part(
                of.PROJECTED, of.CLIP_G, {**of.TINY_CLIP, "hidden_size": 24, "projection_dim": 24}
            ),
            "scheduler": of.Part(
                "diffusers.EulerDiscreteScheduler", {**of.SD_NOISE, "timestep_spacing": "leading"}
            ),
        },
        tokenizers={"tokenizer": "clip", "tokenizer_2": "clip!"},
        absent=("feature_extractor", "image_encoder"),
        extra={"force_zeros_for_empty_prompt": True},
    ),
}


class StableDiffusionXL(Family):
    """SDXL (Podell et al. 2023): two text encoders side by side, a pooled embedding, and the picture's size.

    The condition's last row is the pooled embedding, padded with zeros. The time ids say that the picture was
    neither scaled nor cropped. No prompt is all zeros where the folder's model_index.json says so, as SDXL's
    does.
    """

    pipeline = "StableDiffusionXLPipeline"
    models: ClassVar = {
        "unet": of.UNET,
        "vae": of.KL,
        "text_encoder": of.CLIP,
        "text_encoder_2": of.PROJECTED,
    }
    tokenizers: ClassVar = {"tokenizer": of.CLIP_WORDS, "tokenizer_2": of.CLIP_WORDS}
    latents = ("scaling_factor", "latents_mean", "latents_std")
    inputs: ClassVar = {**UNET_INPUTS, "addition_embed_type": ("text_time",)}
    switches = ("force_zeros_for_empty_prompt",)
    architectures = ARCHITECTURES

    def embed(self, prompt: str) -> Tensor:
        """[L + 1, D]: both encoders' last layers but one, then the second's pooled output."""
        import torch

        first_LD, _ = self._penultimate(prompt, "")
        second_LD, pooled_P = self._penultimate(prompt, "_2")
        cond_LD = with_pooled(torch.cat([first_LD, second_LD], dim=1), pooled_P)
        is_empty = not prompt and self.parts.index.get("force_zeros_for_empty_prompt", True)
        return torch.zeros_like(cond_LD) if is_empty else cond_LD

    def denoise(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """See `Family.denoise`."""
        side, width = self.image_size, int(self.parts.models["text_encoder_2"].config.projection_dim)
        times = cond.new_tensor([side, side, 0, 0, side, side]).expand(len(x), -1)
        added = {"text_embeds": cond[:, -1, :width], "time_ids": times}
        return self.denoiser(x, t, encoder_hidden_states=cond[:, :-1], added_cond_kwargs=added).sample
