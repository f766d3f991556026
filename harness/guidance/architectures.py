"""Architectures of text-to-image priors as data, which `harness make-prior` builds, and what several share.

The values are those of the named repositories' config.json files. `tiny` are the same classes and settings
with fewer, narrower layers; its entries replace those of `full`. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CLIP, PROJECTED = "transformers.CLIPTextModel", "transformers.CLIPTextModelWithProjection"
T5, UNET, KL = "transformers.T5EncoderModel", "diffusers.UNet2DConditionModel", "diffusers.AutoencoderKL"
CLIP_WORDS, T5_WORDS = "transformers.CLIPTokenizer", "transformers.T5Tokenizer"


@dataclass(frozen=True)
class Part:
    """A module or scheduler of a pipeline folder: `library.class`, and its settings in both sizes."""

    kind: str
    full: Mapping[str, Any]
    tiny: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, size: str) -> dict[str, Any]:
        """The settings of `full` or `tiny`."""
        return {**self.full, **(self.tiny if size == "tiny" else {})}


@dataclass(frozen=True)
class Architecture:
    """A pipeline: where its settings are published, its parts and its tokenizers.

    A tokenizer is "clip" (padded with its end token), "clip!" (padded with "!", as OpenCLIP's are) or "t5".
    """

    source: str
    parts: Mapping[str, Part]
    tokenizers: Mapping[str, str]
    absent: tuple[str, ...] = ()  # the pipeline's parts that a folder may lack
    extra: Mapping[str, Any] = field(default_factory=dict)  # further entries of model_index.json


_TINY_LENGTH = 24  # tokens of a tiny CLIP text encoder

CLIP_L = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": 77,
    "bos_token_id": 0,
    "eos_token_id": 2,  # as published: the pooled token is then that of the largest id
    "pad_token_id": 1,
}
TINY_CLIP = {
    "vocab_size": 514,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 16,
    "max_position_embeddings": _TINY_LENGTH,
}
CLIP_H = {**CLIP_L, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23}
CLIP_H |= {"num_attention_heads": 16, "projection_dim": 512, "hidden_act": "gelu"}
CLIP_G = {**CLIP_L, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32}
CLIP_G |= {"num_attention_heads": 20, "projection_dim": 1280, "hidden_act": "gelu"}

T5_XXL = Part(  # google/t5-v1_1-xxl
    T5,
    {
        "vocab_size": 32128,
        "d_model": 4096,
        "d_ff": 10240,
        "d_kv": 64,
        "num_layers": 24,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "is_encoder_decoder": False,
        "use_cache": False,
    },
    {"vocab_size": 512, "d_model": 40, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 2},
)

_AUTOENCODER = {
    "sample_size": 512,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}
_TINY_AUTOENCODER = {
    "sample_size": 32,
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 8,
}


def autoencoder(**settings: Any) -> Part:
    return Part(KL, {**_AUTOENCODER, **settings}, _TINY_AUTOENCODER)


SD_UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
}
TINY_SD_UNET = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}
SD_NOISE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
DDIM_NOISE = {**SD_NOISE, "clip_sample": False, "set_alpha_to_one": False}
