"""DeepFloyd-IF, stage I: pixels in [-1, 1] instead of latents, T5, and a variance that is dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from harness.guidance import architectures as of
from harness.guidance.family import Family

if TYPE_CHECKING:
    from torch import Tensor


ARCHITECTURES = {
    "if-i": of.Architecture(
        source="DeepFloyd/IF-I-XL-v1.0",
        parts={
            "unet": of.Part(
                of.UNET,
                {
                    "sample_size": 64,
                    "in_channels": 3,
                    "out_channels": 6,  # the noise, then the learned variance
                    "block_out_channels": (704, 1408, 2112, 2816),
                    "down_block_types": ("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
                    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
                    "up_block_types": (*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
                    "layers_per_block": 3,
                    "cross_attention_dim": 2816,
                    "attention_head_dim": 64,
                    "encoder_hid_dim": 4096,
                    "addition_embed_type": "text",
                    "addition_embed_type_num_heads": 64,
                    "cross_attention_norm": "group_norm",
                    "resnet_time_scale_shift": "scale_shift",
                    "act_fn": "gelu",
                },
                {
                    "sample_size": 16,
                    "block_out_channels": (16, 32),
                    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
                    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
                    "layers_per_block": 1,
                    "cross_attention_dim": 32,
                    "attention_head_dim": 8,
                    "encoder_hid_dim": 40,
                    "addition_embed_type_num_heads": 2,
                    "norm_num_groups": 8,
                },
            ),
            "text_encoder": of.T5_XXL,
            "scheduler": of.Part(
                "diffusers.DDPMScheduler",
                {
                    "num_train_timesteps": 1000,
                    "beta_schedule": "squaredcos_cap_v2",
                    "variance_type": "learned_range",
                    "prediction_type": "epsilon",
                    "thresholding": True,
                    "dynamic_thresholding_ratio": 0.95,
                    "sample_max_value": 1.5,
                },
            ),
        },
        tokenizers={"tokenizer": "t5"},
        absent=("safety_checker", "feature_extractor", "watermarker"),
        extra={"requires_safety_checker": False},
    ),
}


class DeepFloydIF(Family):
    """DeepFloyd-IF, stage I: pixels in [-1, 1] instead of latents, T5, and a variance that is dropped."""

    pipeline = "IFPipeline"
    models: ClassVar = {"unet": of.UNET, "text_encoder": of.T5}
    tokenizers: ClassVar = {"tokenizer": of.T5_WORDS}
    text_tokens = 77  # trained with
    architectures = ARCHITECTURES

    def embed(self, prompt: str) -> Tensor:
        """T5's last state, [77, D]; the padding is masked inside T5 and shown to the denoiser."""
        ids = self._tokens(prompt.lower().strip(), "tokenizer", length=self.text_tokens)
        pad = self.parts.tokenizers["tokenizer"].pad_token_id
        return self.parts.models["text_encoder"](ids, attention_mask=(ids != pad).long())[0][0].float()

    def denoise(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """See `Family.denoise`."""
        return super().denoise(x, t, cond)[:, : self.latent_shape[0]]

    def _pixels_per_latent(self) -> int:
        return 1

    def decode(self, z_NCHW: Tensor) -> Tensor:
        """The pixels themselves."""
        return z_NCHW

    def encode(self, images_NCHW: Tensor) -> Tensor:
        """The pixels themselves."""
        return images_NCHW
