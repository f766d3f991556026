"""A Stable-Diffusion-layout folder of real diffusers classes with small random weights: a prior for tests."""

import json
from pathlib import Path
from typing import Any

import torch

LATENT = 8  # latents are 4×8×8, images 32×32


def build(folder: Path, prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """Write the pipeline folder and return it."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=LATENT,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=8,
        )
        # As a dict: diffusers annotates these tuples as having one entry.
        autoencoder: dict[str, Any] = {
            "sample_size": 4 * LATENT,
            "block_out_channels": (8, 16, 16),
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "latent_channels": 4,
            "norm_num_groups": 8,
        }
        vae = AutoencoderKL(**autoencoder)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=514,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=24,
                bos_token_id=512,
                eos_token_id=513,
                pad_token_id=513,
            )
        )
    noise: dict[str, Any] = {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "prediction_type": prediction_type,
    }
    parts: dict[str, Any] = {
        "vae": vae,
        "text_encoder": text_encoder,
        "tokenizer": _tokenizer(folder),
        "unet": unet,
        "scheduler": DDIMScheduler(**noise),
        "safety_checker": None,
        "feature_extractor": None,
    }
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)
    return folder


def _tokenizer(folder: Path):
    """CLIP's tokenizer with the byte alphabet as its vocabulary and no merges."""
    from transformers import CLIPTokenizer

    ranges = ("!~", "¡¬", "®ÿ")
    letters = [chr(code) for first, last in ranges for code in range(ord(first), ord(last) + 1)]
    letters += [chr(256 + extra) for extra in range(256 - len(letters))]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    source = folder.parent / f"{folder.name}-tokenizer"
    source.mkdir(parents=True, exist_ok=True)
    (source / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (source / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(source / "vocab.json"), str(source / "merges.txt"), model_max_length=24)
