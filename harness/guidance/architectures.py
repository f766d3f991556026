"""Published architectures of text-to-image priors, as data: what `harness make-prior` builds.

The values are those of the named repositories' config.json files. `tiny` are the same classes and settings
with fewer, narrower layers; its entries replace those of `full`. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.config import UserError, nearest


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
    """A pipeline: its class, where its settings are published, its parts and its tokenizers.

    A tokenizer is "clip" (padded with its end token), "clip!" (padded with "!", as OpenCLIP's are) or "t5".
    """

    pipeline: str
    source: str
    parts: Mapping[str, Part]
    tokenizers: Mapping[str, str]
    absent: tuple[str, ...] = ()  # the pipeline's parts that a folder may lack
    extra: Mapping[str, Any] = field(default_factory=dict)  # further entries of model_index.json


def architecture(name: str) -> Architecture:
    """The architecture of that name; UserError with the nearest."""
    if name not in ARCHITECTURES:
        raise UserError(f"no architecture '{name}'{nearest(name, ARCHITECTURES)}")
    return ARCHITECTURES[name]


_TINY_LENGTH = 24  # tokens of a tiny CLIP text encoder

_CLIP_L = {
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
_TINY_CLIP = {
    "vocab_size": 514,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 16,
    "max_position_embeddings": _TINY_LENGTH,
}
_CLIP_H = {**_CLIP_L, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23}
_CLIP_H |= {"num_attention_heads": 16, "projection_dim": 512, "hidden_act": "gelu"}
_CLIP_G = {**_CLIP_L, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32}
_CLIP_G |= {"num_attention_heads": 20, "projection_dim": 1280, "hidden_act": "gelu"}
_CLIP = "transformers.CLIPTextModel"
_PROJECTED = "transformers.CLIPTextModelWithProjection"

_T5_XXL = Part(  # google/t5-v1_1-xxl
    "transformers.T5EncoderModel",
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


def _autoencoder(**settings: Any) -> Part:
    return Part("diffusers.AutoencoderKL", {**_AUTOENCODER, **settings}, _TINY_AUTOENCODER)


_UNET = "diffusers.UNet2DConditionModel"
_SD_UNET = {
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
_TINY_SD_UNET = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}
_SD_NOISE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
_DDIM_NOISE = {**_SD_NOISE, "clip_sample": False, "set_alpha_to_one": False}

_SD14 = Architecture(
    pipeline="StableDiffusionPipeline",
    source="CompVis/stable-diffusion-v1-4",
    parts={
        "unet": Part(_UNET, _SD_UNET, _TINY_SD_UNET),
        "vae": _autoencoder(),
        "text_encoder": Part(_CLIP, _CLIP_L, _TINY_CLIP),
        "scheduler": Part(
            "diffusers.PNDMScheduler", {**_SD_NOISE, "set_alpha_to_one": False, "skip_prk_steps": True}
        ),
    },
    tokenizers={"tokenizer": "clip"},
    absent=("safety_checker", "feature_extractor", "image_encoder"),
    extra={"requires_safety_checker": False},
)

_SD21 = Architecture(
    pipeline="StableDiffusionPipeline",
    source="stabilityai/stable-diffusion-2-1",
    parts={
        "unet": Part(
            _UNET,
            {
                **_SD_UNET,
                "sample_size": 96,
                "cross_attention_dim": 1024,
                "attention_head_dim": (5, 10, 20, 20),
                "use_linear_projection": True,
                "upcast_attention": True,
            },
            {**_TINY_SD_UNET, "attention_head_dim": (2, 4)},
        ),
        "vae": _autoencoder(sample_size=768),
        "text_encoder": Part(_CLIP, _CLIP_H, _TINY_CLIP),
        "scheduler": Part("diffusers.DDIMScheduler", {**_DDIM_NOISE, "prediction_type": "v_prediction"}),
    },
    tokenizers={"tokenizer": "clip!"},
    absent=("safety_checker", "feature_extractor", "image_encoder"),
    extra={"requires_safety_checker": False},
)

_SDXL = Architecture(
    pipeline="StableDiffusionXLPipeline",
    source="stabilityai/stable-diffusion-xl-base-1.0",
    parts={
        "unet": Part(
            _UNET,
            {
                **_SD_UNET,
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
                **_TINY_SD_UNET,
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
                "transformer_layers_per_block": (1, 2),
                "cross_attention_dim": 40,
                "attention_head_dim": (2, 4),
                "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 6 * 8 + 24,
            },
        ),
        "vae": _autoencoder(sample_size=1024, scaling_factor=0.13025, force_upcast=True),
        "text_encoder": Part(_CLIP, _CLIP_L, _TINY_CLIP),
        "text_encoder_2": Part(_PROJECTED, _CLIP_G, {**_TINY_CLIP, "hidden_size": 24, "projection_dim": 24}),
        "scheduler": Part("diffusers.EulerDiscreteScheduler", {**_SD_NOISE, "timestep_spacing": "leading"}),
    },
    tokenizers={"tokenizer": "clip", "tokenizer_2": "clip!"},
    absent=("feature_extractor", "image_encoder"),
    extra={"force_zeros_for_empty_prompt": True},
)

_IF = Architecture(
    pipeline="IFPipeline",
    source="DeepFloyd/IF-I-XL-v1.0",
    parts={
        "unet": Part(
            _UNET,
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
        "text_encoder": _T5_XXL,
        "scheduler": Part(
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
)

_SD3 = Architecture(
    pipeline="StableDiffusion3Pipeline",
    source="stabilityai/stable-diffusion-3-medium-diffusers",
    parts={
        "transformer": Part(
            "diffusers.SD3Transformer2DModel",
            {
                "sample_size": 128,
                "patch_size": 2,
                "in_channels": 16,
                "out_channels": 16,
                "num_layers": 24,
                "attention_head_dim": 64,
                "num_attention_heads": 24,
                "joint_attention_dim": 4096,
                "caption_projection_dim": 1536,
                "pooled_projection_dim": 2048,
                "pos_embed_max_size": 192,
            },
            {
                "sample_size": 8,
                "num_layers": 2,
                "attention_head_dim": 8,
                "num_attention_heads": 2,
                "joint_attention_dim": 40,
                "caption_projection_dim": 16,
                "pooled_projection_dim": 32,
                "pos_embed_max_size": 8,
            },
        ),
        "vae": _autoencoder(
            sample_size=1024,
            latent_channels=16,
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        "text_encoder": Part(_PROJECTED, _CLIP_L, _TINY_CLIP),
        "text_encoder_2": Part(_PROJECTED, _CLIP_G, _TINY_CLIP),
        "text_encoder_3": _T5_XXL,
        "scheduler": Part(
            "diffusers.FlowMatchEulerDiscreteScheduler", {"num_train_timesteps": 1000, "shift": 3.0}
        ),
    },
    tokenizers={"tokenizer": "clip", "tokenizer_2": "clip!", "tokenizer_3": "t5"},
    absent=("feature_extractor", "image_encoder"),
)

ARCHITECTURES = {"sd14": _SD14, "sd21": _SD21, "sdxl": _SDXL, "if-i": _IF, "sd3": _SD3}
