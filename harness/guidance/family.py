"""What a family of text-to-image pipelines is: one file, which says all that is particular to it.

A family names the parts of its folders and the settings that it understands, makes one tensor of a prompt,
calls the denoiser, makes noise of what it predicts, and turns latents into pictures. `Guidance`, the folder's
checks and `harness make-prior` ask for nothing else. docs/priors.md says what the numbers mean in each.

A family's file is read before anything runs, when nothing loads torch: it imports torch where it computes.
"""

from __future__ import annotations

import importlib
import inspect
import os
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.config import UserError, nearest
from harness.extensions import Seam
from harness.guidance import checks
from harness.guidance.architectures import Architecture

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# A step where nothing of the signal is left has no W_d and no x0. The smallest number that float16 tells from
# 0 stands for ᾱ = 0, as in diffusers' own schedulers for such models.
LEAST_ALPHA = 2.0**-24

SEAM = Seam("family", Path(__file__).with_name("families"), "harness.guidance.families", files=True)
FOLDERS = "HARNESS_FAMILIES"  # in the environment, so that every worker has it: folders with more families


@dataclass(frozen=True)
class Parts:
    """A loaded pipeline folder: modules and tokenizers by name, model_index.json, the noise scheduler."""

    models: Mapping[str, Any]
    tokenizers: Mapping[str, Any]
    index: Mapping[str, Any]
    scheduler: Any


class Family:
    """Base of the families: a UNet in the latent space of an autoencoder.

    `pipeline` is diffusers' class. `models` are a folder's modules with their classes, the denoiser's first,
    and `tokenizers` those of its text encoders, by the same ending; a folder may lack those that are
    `optional`. `latents` are the settings by which the autoencoder's codes become latents here, `inputs` what
    the denoiser may want to be told beside the prompt's tokens, `switches` entries of model_index.json that
    the family applies, `text_tokens` as many tokens as it takes of a T5. `architectures` are published ones
    by their short names, with tiny copies for tests.

    Of a loaded one `alphas_cumprod_T` is float32 on the CPU; `signal_T` √ᾱ and `noise_T` √(1−ᾱ) on the
    device; `latent_shape` is (C, H, W); `image_size` is in pixels.
    """

    pipeline: ClassVar[str]
    models: ClassVar[Mapping[str, str]]
    tokenizers: ClassVar[Mapping[str, str]]
    optional: ClassVar[Collection[str]] = ()
    latents: ClassVar[Collection[str]] = ("scaling_factor",)
    inputs: ClassVar[Mapping[str, tuple[Any, ...]]] = checks.UNET_INPUTS
    switches: ClassVar[Collection[str]] = ()
    text_tokens: ClassVar[int] = 0
    architectures: ClassVar[Mapping[str, Architecture]] = {}

    # ---- the folder

    @classmethod
    def here(cls, index: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
        """The models and tokenizers that a folder of this model_index.json holds."""
        lacking = {part for part in cls.optional if not any(index.get(part) or ())}
        models = {part: kind for part, kind in cls.models.items() if part not in lacking}
        return models, {part: kind for part, kind in cls.tokenizers.items() if part not in lacking}

    @classmethod
    def check(cls, index: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]) -> None:
        """UserError where something of model_index.json, or of the parts' `settings`, is not understood."""
        models, tokenizers = cls.here(index)
        checks.classes({**models, **tokenizers}, index, settings, cls.pipeline)
        checks.index(index, cls.switches)
        cls.check_scheduler(settings["scheduler"])
        vae, denoiser = settings.get("vae"), next(iter(models))
        if vae is not None:
            checks.autoencoder(vae, cls.latents)
        checks.denoiser(denoiser, settings[denoiser], vae, cls.inputs)

    @classmethod
    def check_scheduler(cls, settings: Mapping[str, Any]) -> None:
        """UserError where the scheduler makes no noise schedule that is understood."""
        checks.alpha_scheduler(settings)

    @classmethod
    def dtype_of(cls, part: str, dtype: str) -> str:
        """The dtype of a module where the denoiser's is `dtype`.

        What is called rarely is in float32: neither colours nor embeddings depend on the denoiser's dtype.
        But a T5 is larger than the denoiser, and was trained in bfloat16.
        """
        if part == next(iter(cls.models)):
            return dtype
        is_t5 = cls.models[part].endswith("T5EncoderModel")
        return "bfloat16" if is_t5 and dtype != "float32" else "float32"

    @classmethod
    def load(
        cls,
        path: Path,
        index: Mapping[str, Any],
        scheduler: str,
        fp16: Collection[str],
        dtype: str,
        device: torch.device,
    ) -> Family:
        """The family of a whole folder, with the denoiser in `dtype`; `scheduler` is its class, and `fp16`
        the modules that only have that variant.

        Raises UserError for weights that lack or do not fit, and for a tokenizer that does not tell words
        apart; what the loaders raise is left to the caller.
        """
        import torch

        def tool(part: str, kind: str) -> Any:
            return _class(kind).from_pretrained(path / part, local_files_only=True)

        def model(part: str, kind: str) -> Any:
            loaded, info = _class(kind).from_pretrained(
                path,
                subfolder=part,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **({"variant": "fp16"} if part in fp16 else {}),
            )
            _check_loaded(part, loaded, info)
            # Cast afterwards: the loaders' keyword for it differs between versions (torch_dtype, dtype).
            dtype_of_part = getattr(torch, cls.dtype_of(part, dtype))
            return torch.nn.Module.to(loaded, device, dtype_of_part).eval().requires_grad_(False)

        models, tokenizers = cls.here(index)
        parts = Parts(
            models={part: model(part, kind) for part, kind in models.items()},
            tokenizers={part: tool(part, kind) for part, kind in tokenizers.items()},
            index=index,
            scheduler=tool("scheduler", scheduler),
        )
        for name, tokenizer in parts.tokenizers.items():
            _check_reads(name, tokenizer)
        return cls(parts, device)

    # ---- the noise schedule

    def __init__(self, parts: Parts, device: torch.device):
        self.parts, self.device = parts, device
        self.denoiser: Any = parts.models[next(iter(self.models))]
        self.prediction_type = self._prediction_type()
        self.alphas_cumprod_T = self._alphas_cumprod()
        self.signal_T = self.alphas_cumprod_T.sqrt().to(device)
        self.noise_T = (1.0 - self.alphas_cumprod_T).sqrt().to(device)
        side = int(self.denoiser.config["sample_size"])
        self.latent_shape = (int(self.denoiser.config["in_channels"]), side, side)
        self.image_size = side * self._pixels_per_latent()

    def _prediction_type(self) -> str:
        found = str(self.parts.scheduler.config["prediction_type"])
        if found not in ("epsilon", "v_prediction"):
            raise UserError(
                f"prediction type '{found}' is not supported; "
                "choose a prior that predicts epsilon or v_prediction"
            )
        return found

    def _alphas_cumprod(self) -> Tensor:
        import torch

        alphas_T = self.parts.scheduler.alphas_cumprod.float().cpu()
        betas_T = self.parts.scheduler.betas.float()
        if not bool(((betas_T >= 0) & (betas_T <= 1)).all()):
            raise UserError("its scheduler's betas make no noise schedule: each must lie in 0…1")
        return torch.where(alphas_T > 0, alphas_T, LEAST_ALPHA)

    def _pixels_per_latent(self) -> int:
        return 2 ** (len(self.parts.models["vae"].config["block_out_channels"]) - 1)

    # ---- the prompt

    def embed(self, prompt: str) -> Tensor:
        """What the denoiser is told of a prompt, [L, D] float32; "" is the condition of no prompt."""
        encoder = self.parts.models["text_encoder"]
        return encoder(self._tokens(prompt, "tokenizer", encoder))[0][0]

    def _tokens(self, prompt: str, tokenizer: str, encoder: Any = None, length: int | None = None) -> Tensor:
        """Token ids [1, L], padded; of a CLIP encoder as many as it has places."""
        take = self.parts.tokenizers[tokenizer]
        length = length or min(int(take.model_max_length), int(encoder.config.max_position_embeddings))
        padded = take(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        if len(take(prompt).input_ids) > length:
            warnings.warn(f"prompt cut: longer than the prior's {length} tokens: {prompt}", stacklevel=3)
        return padded.input_ids.to(self.device)

    def _penultimate(self, prompt: str, number: str) -> tuple[Tensor, Tensor]:
        """A CLIP encoder's last layer but one, [L, D], and the pooled output [P] of one that projects."""
        encoder = self.parts.models[f"text_encoder{number}"]
        out = encoder(self._tokens(prompt, f"tokenizer{number}", encoder), output_hidden_states=True)
        return out.hidden_states[-2][0], out[0][0]

    # ---- the denoiser

    def model_input(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_t in the scale that the denoiser was trained in."""
        return x_t

    def denoise(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """What the denoiser predicts for the scaled x [n,C,H,W], integer t [n] and cond [n,L,D], all in its
        dtype."""
        return self.denoiser(x, t, encoder_hidden_states=cond).sample

    def noise(self, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """ε̂ from the denoiser's float32 output; v-prediction is √ᾱ·ε − √(1−ᾱ)·x (Salimans & Ho 2022)."""
        if self.prediction_type == "v_prediction":
            return self.signal_T[t][:, None, None, None] * out + self.noise_T[t][:, None, None, None] * x_t
        return out

    # ---- the picture

    def decode(self, z_NCHW: Tensor) -> Tensor:
        """Images in [-1, 1], not clamped, from latents in the denoiser's scale."""
        scale, shift = self._code_scale(z_NCHW)
        return self.parts.models["vae"].decode(z_NCHW / scale + shift).sample

    def encode(self, images_NCHW: Tensor) -> Tensor:
        """Latents in the denoiser's scale, the mean of the code, from images in [-1, 1]."""
        codes = self.parts.models["vae"].encode(images_NCHW).latent_dist.mean
        scale, shift = self._code_scale(codes)
        return (codes - shift) * scale

    def _code_scale(self, like: Tensor) -> tuple[float | Tensor, float | Tensor]:
        """(a, b) of latents = (codes − b)·a: numbers, or [1,C,1,1] where each channel has its own."""
        config = self.parts.models["vae"].config
        scale, shift = float(config["scaling_factor"]), float(config.get("shift_factor") or 0.0)
        if config.get("latents_mean") is None:
            return scale, shift
        mean, std = (
            like.new_tensor(config[key])[None, :, None, None] for key in ("latents_mean", "latents_std")
        )
        return scale / std, mean


def with_pooled(cond_LD: Tensor, pooled_P: Tensor) -> Tensor:
    """[L + 1, D]: a pooled embedding as one more row, so that a prompt's condition stays one tensor."""
    import torch
    from torch.nn import functional

    return torch.cat([cond_LD, functional.pad(pooled_P, (0, cond_LD.shape[1] - len(pooled_P)))[None]])


def families() -> dict[str, type[Family]]:
    """All families, by diffusers' name of the pipeline, with those of $HARNESS_FAMILIES' folders.

    Raises UserError for a folder that holds none, for a file that is none, and for two of one pipeline.
    """
    return _families(_folders())


def environment() -> dict[str, str]:
    """The variable with which a job elsewhere finds the same families; {} where there are none of others."""
    return {FOLDERS: os.pathsep.join(map(os.path.abspath, _folders()))} if _folders() else {}


def _folders() -> tuple[str, ...]:
    return tuple(folder for folder in os.environ.get(FOLDERS, "").split(os.pathsep) if folder)


@lru_cache(maxsize=8)
def _families(folders: tuple[str, ...]) -> dict[str, type[Family]]:
    dirs = [Path(folder) for folder in folders]
    found: dict[str, type[Family]] = {}
    for name in SEAM.discover(dirs):
        family = SEAM.load(name, Family, dirs)
        twin = found.setdefault(family.pipeline, family)
        if twin is not family:
            raise UserError(f"two families read {family.pipeline}: {twin.__module__} and {family.__module__}")
    return found


def family_of(index: Mapping[str, Any]) -> type[Family]:
    """The family of a folder's model_index.json; UserError, naming those there are."""
    name, known = index.get("_class_name"), families()
    if name not in known:
        raise UserError(f"pipeline class '{name}' is not supported; choose a prior of {', '.join(known)}")
    return known[name]


def architectures() -> dict[str, type[Family]]:
    """The families of the architectures that `harness make-prior` knows, by their short names."""
    return {like: family for family in families().values() for like in family.architectures}


def architecture(like: str) -> tuple[type[Family], Architecture]:
    """The architecture of that name and its family; UserError with the nearest."""
    known = architectures()
    if like not in known:
        raise UserError(f"no architecture '{like}'{nearest(like, known)}")
    return known[like], known[like].architectures[like]


def _class(name: str) -> Any:
    """The class of `library.Name`."""
    library, _, cls = name.partition(".")
    return getattr(importlib.import_module(library), cls)


def _check_loaded(part: str, model: Any, info: dict[str, Any]) -> None:
    """UserError where weights are missing, which loaders make up, or a setting means nothing to them."""
    lacking = [*info.get("missing_keys", ()), *info.get("mismatched_keys", ())]
    if lacking:
        raise UserError(
            f"{part} lacks weights, or has them in another shape: {lacking[0]} ({len(lacking)} in all)"
        )
    if not hasattr(type(model), "config_name") or not hasattr(model, "_internal_dict"):
        return
    known = inspect.signature(type(model).__init__).parameters
    for key, value in model.config.items():
        if not key.startswith("_") and key not in known and value is not None:
            raise UserError(f"{part}: the setting {key} = {value} is not known to this version of diffusers")


PROBE = "a red car on the left"


def _check_reads(name: str, tokenizer: Any) -> None:
    """UserError where the words of a plain prompt do not come back from its tokens."""
    ids = tokenizer(PROBE, padding="max_length", max_length=32, truncation=True).input_ids
    back = tokenizer.decode(ids, skip_special_tokens=True)
    if "".join(back.split()).lower() != "".join(PROBE.split()):
        raise UserError(f"{name} reads '{PROBE}' as '{back}': its vocabulary is not whole, or not its own")
