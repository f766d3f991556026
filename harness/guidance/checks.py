"""What of a pipeline's settings is understood: applied by diffusers' own class, or refused.

A setting that changes what is computed and that nothing here applies is a UserError, and so is one that is
not known. From the files alone: no torch, no network.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from harness.config import UserError, nearest
from harness.guidance.architectures import CLIP_WORDS, PROJECTED, T5_WORDS
from harness.text import parse_json

# Schedulers of diffusers whose ᾱ follows from their betas.
ALPHA_SCHEDULERS = {
    f"{name}Scheduler"
    for name in (
        *("DDPM", "DDPMParallel", "DDIM", "DDIMParallel", "DDIMInverse", "PNDM", "LMSDiscrete"),
        *("EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete"),
        *("KDPM2AncestralDiscrete", "DPMSolverMultistep", "DPMSolverMultistepInverse"),
        *("DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep", "SASolver", "LCM", "TCD"),
    )
}
_RESCALING = {  # those that know rescale_betas_zero_snr
    f"{name}Scheduler"
    for name in (
        *("DDPM", "DDPMParallel", "DDIM", "DDIMParallel", "DDIMInverse", "EulerDiscrete"),
        *("EulerAncestralDiscrete", "DPMSolverMultistep", "UniPCMultistep", "LCM", "TCD"),
    )
}
_BETAS = {"num_train_timesteps", "beta_start", "beta_end", "trained_betas", "rescale_betas_zero_snr"}
_OF_SAMPLING = {  # what is done with a prediction afterwards, and at which timesteps samplers stop
    *("clip_sample", "clip_sample_range", "thresholding", "dynamic_thresholding_ratio", "sample_max_value"),
    *("steps_offset", "timestep_spacing", "set_alpha_to_one", "skip_prk_steps", "variance_type"),
    *("solver_order", "solver_type", "solver_p", "algorithm_type", "lower_order_final", "euler_at_final"),
    *("final_sigmas_type", "interpolation_type", "use_karras_sigmas", "use_exponential_sigmas"),
    *("use_beta_sigmas", "use_lu_lambdas", "lambda_min_clipped", "predict_x0", "disable_corrector"),
    *("predictor_order", "corrector_order", "tau_func", "original_inference_steps", "timestep_scaling"),
    *("flow_shift", "time_shift_type", "base_shift", "max_shift", "base_image_seq_len"),
    *("max_image_seq_len", "stochastic_sampling"),
}
_ALPHA_ONLY: dict[str, tuple[Any, ...]] = {
    "prediction_type": ("epsilon", "v_prediction"),
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"),
    "use_flow_sigmas": (False, None),
    "use_dynamic_shifting": (False, None),
    "shift_terminal": (None,),
    "timestep_type": ("discrete",),
    "sigma_min": (None,),
    "sigma_max": (None,),
}
_FLOW_ONLY: dict[str, tuple[Any, ...]] = {
    "use_dynamic_shifting": (False, None),
    "invert_sigmas": (False, None),
    "shift_terminal": (None,),
}
_KL_SHAPE = {
    *("in_channels", "out_channels", "down_block_types", "up_block_types", "block_out_channels"),
    *("layers_per_block", "act_fn", "latent_channels", "norm_num_groups", "sample_size", "force_upcast"),
    *("use_quant_conv", "use_post_quant_conv", "mid_block_add_attention"),
}
_OF_LATENTS = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
_OF_PIPELINES = {"requires_safety_checker", "add_watermarker"}  # what becomes of a finished picture

# What a UNet may want to be told beside the prompt's tokens ("text": the prompt itself).
UNET_INPUTS: Mapping[str, tuple[Any, ...]] = {
    "addition_embed_type": (None, "text"),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "time_cond_proj_dim": (None,),
    "encoder_hid_dim_type": (None, "text_proj"),
}


def object_in(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object; ValueError otherwise."""
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(str(error)) from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no object")
    return value


def index(settings: Mapping[str, Any], switches: Collection[str]) -> None:
    """model_index.json: `switches` are the entries that the family applies."""
    known = {*_OF_PIPELINES, *switches}
    only_known("model_index.json", settings, known, {"is_cosxl_edit": (None, False)})


def classes(
    parts: Mapping[str, str], about: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]], reader: str
) -> None:
    """Every part is of the class that it is read with, by model_index.json (`about`) and its own file."""
    for part, cls in parts.items():
        expected = cls.partition(".")[2]
        named = (about.get(part) or (None, None))[-1]
        written = settings.get(part, {}).get("_class_name")
        for found in (named, written):
            if found not in (None, expected, f"{expected}Fast"):
                raise UserError(f"{part} is a {found}, and {reader} is read here with {expected}")
        kind = settings.get(part, {}).get("model_type")
        if kind is not None and not str(kind).startswith("t5" if "T5" in expected else "clip"):
            raise UserError(f"{part} is of the type {kind}, and is read here with {expected}")


def alpha_scheduler(settings: Mapping[str, Any]) -> None:
    """A scheduler whose ᾱ follows from its betas."""
    name = _known_scheduler(settings, ALPHA_SCHEDULERS, "noise schedule ᾱ")
    only_known("scheduler", settings, _BETAS | _OF_SAMPLING, _ALPHA_ONLY)
    if settings.get("rescale_betas_zero_snr") and name not in _RESCALING:
        raise UserError(f"scheduler: {name} does not apply rescale_betas_zero_snr")
    count, betas = settings.get("num_train_timesteps", 1000), settings.get("trained_betas")
    if not isinstance(count, int) or count < 1:
        raise UserError(f"scheduler: num_train_timesteps = {count} is no number of timesteps")
    if betas is not None and (not isinstance(betas, list) or len(betas) != count):
        raise UserError(f"scheduler: trained_betas must hold {count} numbers, one for each timestep")


def flow_scheduler(settings: Mapping[str, Any]) -> None:
    """A rectified flow's scheduler."""
    _known_scheduler(settings, {"FlowMatchEulerDiscreteScheduler"}, "flow")
    only_known("scheduler", settings, {"num_train_timesteps", "shift", *_OF_SAMPLING}, _FLOW_ONLY)


def _known_scheduler(settings: Mapping[str, Any], known: Collection[str], what: str) -> str:
    name = settings.get("_class_name")
    if name not in known:
        raise UserError(f"scheduler '{name}' is not understood as a {what}{nearest(str(name), known)}")
    return str(name)


def autoencoder(settings: Mapping[str, Any], latents: Collection[str]) -> None:
    """An AutoencoderKL; `latents` are the settings by which its codes become latents here."""
    only_known(
        "vae",
        settings,
        _KL_SHAPE | set(latents),
        {key: (None, 0, 0.0) for key in _OF_LATENTS if key not in latents},
    )
    scale = settings.get("scaling_factor", 1.0)
    if not isinstance(scale, (int, float)) or not 0 < scale < float("inf"):
        raise UserError(f"vae: scaling_factor = {scale} scales nothing")
    channels = settings.get("latent_channels", 4)
    for key in ("latents_mean", "latents_std"):
        value = settings.get(key)
        if value is not None and (not isinstance(value, list) or len(value) != channels):
            raise UserError(f"vae: {key} must hold {channels} numbers, one for each channel of the latents")
    if (settings.get("latents_mean") is None) != (settings.get("latents_std") is None):
        raise UserError("vae: latents_mean and latents_std belong together, and one of them is missing")


def denoiser(
    part: str,
    settings: Mapping[str, Any],
    vae: Mapping[str, Any] | None,
    inputs: Mapping[str, tuple[Any, ...]],
) -> None:
    """A denoiser of squares of the autoencoder's channels; `inputs`: which settings that ask for more than
    the prompt's tokens have which values."""
    if not isinstance(settings.get("sample_size"), int):
        raise UserError(f"{part}: sample_size = {settings.get('sample_size')} is no side of a square")
    if vae is not None:
        channels, latents = settings.get("in_channels", 4), vae.get("latent_channels", 4)
        if channels != latents:
            raise UserError(
                f"{part} takes {channels} channels and vae makes {latents}: it wants more than a prompt"
            )
    for key, allowed in inputs.items():
        if settings.get(key) not in allowed:
            raise UserError(f"{part}: {key} = {settings.get(key)} asks for an input that is not given here")


def only_known(
    part: str, settings: Mapping[str, Any], free: Collection[str], limited: Mapping[str, tuple[Any, ...]]
) -> None:
    """Every setting is one of the `free` ones, or `limited` to values that are understood."""
    for key, value in settings.items():
        if key.startswith("_") or key in free or (part == "model_index.json" and isinstance(value, list)):
            continue
        if key not in limited and value is not None:
            raise UserError(
                f"{part}: the setting {key} = {value} is not known, and may change what is computed"
            )
        if key in limited and value not in limited[key]:
            allowed = ", ".join(str(each).lower() for each in dict.fromkeys(limited[key]))
            raise UserError(f"{part}: {key} = {value} is not supported; what is: {allowed}")


# ---- tokenizers


def missing_words(folder: Path, cls: str) -> list[str]:
    """The files that a tokenizer lacks."""
    names = ["tokenizer_config.json"]
    if not (folder / "tokenizer.json").is_file():
        own = ["spiece.model"] if cls == T5_WORDS else ["vocab.json", "merges.txt"]
        names += own if any((folder / name).is_file() for name in own) else ["tokenizer.json"]
    return [
        f"{folder.name}/{name}"
        for name in names
        if not (folder / name).is_file() or not (folder / name).stat().st_size
    ]


def words(folder: Path, cls: str, encoder: Mapping[str, Any], encoder_cls: str) -> None:
    """A tokenizer's vocabulary is whole, and fits the text encoder."""
    part = folder.name
    if not (folder / "tokenizer.json").is_file() and cls == T5_WORDS:
        if importlib.util.find_spec("sentencepiece") is None:
            raise UserError(
                f"its {part} is read by sentencepiece, which is not installed: pip install sentencepiece"
            )
        return
    try:
        vocabulary, merges, marks = _vocabulary(folder)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise UserError(f"{part} cannot be read: its vocabulary is cut short") from None
    size, places = max(vocabulary.values(), default=-1) + 1, int(encoder.get("vocab_size", 0))
    if len(vocabulary) <= len(marks):
        raise UserError(f"{part} has no vocabulary: every prompt would be the same")
    if size > places:
        raise UserError(f"{part} has {size} tokens, and its text encoder embeds {places}: they do not fit")
    if cls != CLIP_WORDS:
        return
    lost = [
        token for token in vocabulary if _length(token) > 1 and token not in marks and token not in merges
    ]
    if lost:
        raise UserError(
            f"{part}: {len(lost)} tokens, such as '{lost[0]}', have no merge: merges are cut short"
        )
    end, asked = vocabulary.get(_mark(folder, "eos_token")), encoder.get("eos_token_id")
    if end is None:
        raise UserError(f"{part}: its vocabulary has no end token")
    # transformers pools at the largest id where a configuration says 2, as those of old do.
    if encoder_cls == PROJECTED and end != (max(vocabulary.values()) if asked == 2 else asked):
        raise UserError(f"{part} ends a prompt with {end}, and its text encoder pools at another token")


def _vocabulary(folder: Path) -> tuple[dict[str, int], set[str], set[str]]:
    """{token: id}, what merges make, and the tokens that stand for themselves."""
    marks: dict[str, int] = {}
    if (folder / "tokenizer.json").is_file():
        about = object_in(folder / "tokenizer.json")
        model = about["model"]
        held = model["vocab"]
        vocabulary = held if isinstance(held, dict) else {piece[0]: n for n, piece in enumerate(held)}
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model.get("merges") or ()]
        marks = {mark["content"]: int(mark["id"]) for mark in about.get("added_tokens") or ()}
    else:
        vocabulary = object_in(folder / "vocab.json")
        lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
        pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
        if (folder / "added_tokens.json").is_file():
            marks = object_in(folder / "added_tokens.json")
        marks |= {mark: vocabulary[mark] for key in _MARKS if (mark := _mark(folder, key)) in vocabulary}
    merged = {first + second for first, second in pairs}
    return {token: int(n) for token, n in {**vocabulary, **marks}.items()}, merged, set(marks)


_MARKS = ("bos_token", "eos_token", "unk_token", "pad_token")


def _mark(folder: Path, key: str) -> str:
    """A special token, as one of the tokenizer's two files says; CLIP's own where neither does."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        value = object_in(folder / name).get(key) if (folder / name).is_file() else None
        if value:
            return str(value["content"] if isinstance(value, dict) else value)
    return "<|startoftext|>" if key == "bos_token" else "<|endoftext|>"


def _length(token: str) -> int:
    """Symbols of a CLIP token, the mark of a word's end not counted."""
    return len(token.removesuffix("</w>")) or 1
