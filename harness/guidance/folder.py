"""A prior's folder: where it is, which of its files are used, and whether they are whole and understood.

Everything here is told before anything runs, from the files alone: no torch, no network. A setting that
changes what is computed is applied by the family, or refused here; one that is not known is refused.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import safe_open

from harness.config import GuidanceConfig, UserError, nearest
from harness.guidance import hub

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"

_CLIP, _PROJECTED = "transformers.CLIPTextModel", "transformers.CLIPTextModelWithProjection"
_T5, _UNET, _KL = "transformers.T5EncoderModel", "diffusers.UNet2DConditionModel", "diffusers.AutoencoderKL"
_CLIP_WORDS, _T5_WORDS = "transformers.CLIPTokenizer", "transformers.T5Tokenizer"


@dataclass(frozen=True)
class Layout:
    """The parts of a pipeline's folder, by name: `models` with their classes, the denoiser's first; a folder
    may lack those that are `optional`. `latents` are the settings by which the autoencoder's codes become
    latents here, `added` what the UNet may want to be told beside the prompt ("text": the prompt itself),
    `switches` entries of model_index.json that the family applies."""

    pipeline: str
    models: Mapping[str, str]
    tokenizers: Mapping[str, str]
    optional: tuple[str, ...] = ()
    flow: bool = False
    latents: tuple[str, ...] = ("scaling_factor",)
    added: tuple[str | None, ...] = (None, "text")
    switches: tuple[str, ...] = ()

    @property
    def denoiser(self) -> str:
        """The denoiser's name."""
        return next(iter(self.models))

    def here(self, index: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
        """The models and tokenizers that a folder of this model_index.json holds."""
        lacking = {part for part in self.optional if not any(index.get(part) or ())}
        models = {part: cls for part, cls in self.models.items() if part not in lacking}
        return models, {part: cls for part, cls in self.tokenizers.items() if part not in lacking}


LAYOUTS = {
    layout.pipeline: layout
    for layout in (
        Layout(
            "StableDiffusionPipeline",
            {"unet": _UNET, "vae": _KL, "text_encoder": _CLIP},
            {"tokenizer": _CLIP_WORDS},
        ),
        Layout(
            "StableDiffusionXLPipeline",
            {"unet": _UNET, "vae": _KL, "text_encoder": _CLIP, "text_encoder_2": _PROJECTED},
            {"tokenizer": _CLIP_WORDS, "tokenizer_2": _CLIP_WORDS},
            latents=("scaling_factor", "latents_mean", "latents_std"),
            added=("text_time",),
            switches=("force_zeros_for_empty_prompt",),
        ),
        Layout("IFPipeline", {"unet": _UNET, "text_encoder": _T5}, {"tokenizer": _T5_WORDS}),
        Layout(
            "StableDiffusion3Pipeline",
            {
                "transformer": "diffusers.SD3Transformer2DModel",
                "vae": _KL,
                "text_encoder": _PROJECTED,
                "text_encoder_2": _PROJECTED,
                "text_encoder_3": _T5,
            },
            {"tokenizer": _CLIP_WORDS, "tokenizer_2": _CLIP_WORDS, "tokenizer_3": _T5_WORDS},
            optional=("text_encoder_3", "tokenizer_3"),
            flow=True,
            latents=("scaling_factor", "shift_factor"),
        ),
    )
}


def stem(cls: str) -> str:
    """The name of a module's weights file: diffusers' or transformers'."""
    return "diffusion_pytorch_model" if cls.startswith("diffusers.") else "model"


_STEMS = {part: stem(cls) for layout in LAYOUTS.values() for part, cls in layout.models.items()}
PATTERNS = (  # the files of a repository that a prior of any family is made of
    "model_index.json",
    "card.json",
    "scheduler/*",
    "tokenizer*/*",
    *(f"{part}/config.json" for part in _STEMS),
    *(f"{part}/{name}.safetensors" for part, name in _STEMS.items()),
    *(f"{part}/{name}.safetensors.index.json" for part, name in _STEMS.items()),
    *(f"{part}/{name}-*.safetensors" for part, name in _STEMS.items()),  # the shards that the index names
)

# ---- settings: applied by diffusers' own class, without a say in what is computed here, or refused

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
_TOKENIZER_FILES = (
    *("tokenizer.json", "vocab.json", "merges.txt", "spiece.model", "added_tokens.json"),
    *("special_tokens_map.json", "tokenizer_config.json"),
)
_PICKLES = ("*.bin", "*.bin.index*.json", "*.ckpt", "*.pt", "*.pth")
# Of a configuration file: which versions wrote it and from where, and the dtype of weights that are cast.
_NOT_CONTENT = ("_diffusers_version", "transformers_version", "_name_or_path", "dtype", "torch_dtype")


@dataclass(frozen=True)
class PriorFolder:
    """A whole prior on this machine; `weights` are its modules' files, `fp16` the modules that only have
    that variant, `scheduler` the class of its noise schedule."""

    path: Path
    tag: str
    index: Mapping[str, Any]
    layout: Layout
    scheduler: str
    weights: tuple[Path, ...]
    fp16: frozenset[str]
    stamp: str
    _hashes: dict[Path, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def files(self) -> list[Path]:
        """Every file that what is computed depends on."""
        models, tokenizers = self.layout.here(self.index)
        small = ["model_index.json", "scheduler/scheduler_config.json", *(f"{m}/config.json" for m in models)]
        words = (self.path / part / name for part in tokenizers for name in _TOKENIZER_FILES)
        return [*(self.path / name for name in small), *(p for p in words if p.is_file()), *self.weights]

    @property
    def stored(self) -> hub.Stored:
        """As the doctor tells it, with the hash of all files."""
        return hub.Stored(self.tag, self.path, tuple(self.files), self.content_hash)

    @property
    def record(self) -> dict[str, Any]:
        """What a run's records keep of its prior: `content_hash` is of all files that are used. Older records
        have `weights_hash`, of the weights alone, and those before there was a stamp `is_toy`."""
        hashes = {"weights_hash": self.weights_hash, "content_hash": self.content_hash}
        return {"tag": self.tag, **hashes, "stamp": self.stamp, "is_toy": self.stamp == "toy"}

    @cached_property
    def weights_hash(self) -> str:
        """One sha256 over the weight files."""
        lines = (f"{path.parent.name}:{self._hash(path)}\n" for path in self.weights)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @cached_property
    def content_hash(self) -> str:
        """One sha256 over all `files`; neither their place nor the spelling of a configuration counts."""
        lines = sorted(
            f"{path.relative_to(self.path).as_posix()}:{self._hash(path)}\n" for path in self.files
        )
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            is_config = path.name == "config.json" or path.name in (
                "model_index.json",
                "scheduler_config.json",
            )
            self._hashes[path] = _settings_hash(path) if is_config else hub.sha256_named(path)
        return self._hashes[path]


def _settings_hash(path: Path) -> str:
    kept = {key: value for key, value in _json(path).items() if key not in _NOT_CONTENT}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def find(cfg: GuidanceConfig, *, local_only: bool = True) -> PriorFolder:
    """The prior that `cfg` names, whole; fetched from the Hub where it may be and is not here.

    Raises UserError, with the command that fetches it, where it is missing or incomplete, and where something
    of it is not understood.
    """
    path, tag = _locate(cfg, local_only)
    return look(cfg, path, tag)


def pinned(cfg: GuidanceConfig) -> GuidanceConfig:
    """`cfg` with a folder's prior named by its resolved path and its content, however it was spelled.

    Embedded priors and those of the Hub stay as they are. Raises as `find`.
    """
    path = Path(cfg.prior).expanduser()
    if cfg.prior in _embedded() or not path.is_dir():
        return cfg
    path = path.resolve()
    if path.parent == WEIGHTS and path.name in _embedded():
        return cfg.model_copy(update={"prior": path.name})
    named = cfg.model_copy(update={"prior": str(path)})
    found = find(named)
    check_content(named, found)
    return named.model_copy(update={"content": found.content_hash})


def check_content(cfg: GuidanceConfig, found: PriorFolder) -> None:
    """UserError where the folder's files are not those that `cfg` was pinned to."""
    if cfg.content is not None and cfg.content != found.content_hash:
        raise UserError(
            f"prior {cfg.prior} holds other files ({found.content_hash[:12]}) than was asked for "
            f"({cfg.content[:12]}): put those back, or name another --out"
        )


def is_on_hub(cfg: GuidanceConfig) -> bool:
    """Whether the prior is a repository of the Hub, neither embedded nor a folder."""
    return not Path(cfg.prior).expanduser().is_dir() and hub.is_hub_id(cfg.prior)


def fetch_command(cfg: GuidanceConfig) -> str:
    """The shell command that brings the prior here."""
    if is_on_hub(cfg):
        revision = f" --set guidance.revision={cfg.revision}" if cfg.revision else ""
        return f"harness doctor --fetch --prior {cfg.prior}{revision}"
    if cfg.prior == "toy-sd":
        return "harness toyworld train all"
    return f"copy a whole diffusers pipeline folder to {cfg.prior}"


def _embedded() -> list[str]:
    return [index.parent.name for index in WEIGHTS.glob("*/model_index.json")]


def _locate(cfg: GuidanceConfig, local_only: bool) -> tuple[Path, str]:
    """The prior's folder on disk, and its tag."""
    known = _embedded()
    if cfg.prior in known:
        return WEIGHTS / cfg.prior, cfg.prior
    path = Path(cfg.prior).expanduser()
    if path.is_dir():
        return path.resolve(), path.resolve().name
    if not hub.is_hub_id(cfg.prior):
        if cfg.prior == "toy-sd":
            raise UserError(f"prior toy-sd is not in {WEIGHTS}; make it: {fetch_command(cfg)}")
        raise UserError(
            f"prior '{cfg.prior}' is no embedded prior, no folder, no Hub id (owner/name)"
            + nearest(cfg.prior, known)
        )
    found = hub.stored(cfg.prior, cfg.revision, PATTERNS)
    if found is None and not (local_only or hub.is_offline()):
        found = hub.fetch(cfg.prior, cfg.revision, PATTERNS)
    if found is None:
        raise UserError(f"prior {cfg.prior} is not on this machine; fetch it: {fetch_command(cfg)}")
    return found, f"{cfg.prior}@{found.name[:12]}"


# ---- whether it is whole


def look(cfg: GuidanceConfig, path: Path, tag: str) -> PriorFolder:
    """The prior in a folder; UserError where a file is missing or torn, or something is not understood."""
    try:
        index = _json(path / "model_index.json")
    except ValueError:
        raise _incomplete(path, cfg, ["model_index.json"], _single_file(path)) from None
    try:
        layout = choose(index)
    except UserError as error:
        raise UserError(f"prior {cfg.prior}: {error}") from None
    models, tokenizers = layout.here(index)
    weights: list[Path] = []
    fp16: set[str] = set()
    missing: list[str] = []
    pickled: list[str] = []
    for part, cls in models.items():
        found, is_fp16 = _files(path, part, cls)
        lacking = [each for each in found if not _is_whole(each)]
        pickles = sorted(p for pattern in _PICKLES for p in (path / part).glob(pattern))
        if pickles and not any(each.exists() for each in found):
            pickled.append(f"{part}/{pickles[0].name}")
        else:
            missing += [f"{part}/{each.name}" for each in lacking]
        weights += found
        fp16 |= {part} if is_fp16 else set()
    if pickled and not missing:
        raise _only_pickles(cfg, path, pickled)
    small = ["scheduler/scheduler_config.json", *(f"{part}/config.json" for part in models)]
    settings: dict[str, dict[str, Any]] = {}
    for name in small:
        try:
            settings[name.partition("/")[0]] = _json(path / name)
        except ValueError:
            missing.append(name)
    for part, cls in tokenizers.items():
        missing += _missing_words(path / part, cls)
    if missing:
        raise _incomplete(path, cfg, missing)
    try:
        _check_classes(layout, index, settings)
        _check_scheduler(layout, settings["scheduler"])
        if "vae" in settings:
            _check_autoencoder(layout, settings["vae"])
        _check_denoiser(layout, settings)
        for part, cls in tokenizers.items():
            encoder = part.replace("tokenizer", "text_encoder")
            _check_words(path / part, part, cls, settings[encoder], models[encoder])
    except UserError as error:
        raise UserError(f"prior {cfg.prior}: {error}") from None
    scheduler = f"diffusers.{settings['scheduler']['_class_name']}"
    return PriorFolder(path, tag, index, layout, scheduler, tuple(weights), frozenset(fp16), _stamp(path))


def choose(index: Mapping[str, Any]) -> Layout:
    """The layout of a folder's model_index.json; UserError, naming those there are."""
    name = index.get("_class_name")
    if name not in LAYOUTS:
        raise UserError(f"pipeline class '{name}' is not supported; choose a prior of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def _json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object; ValueError otherwise."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(str(error)) from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no object")
    return value


def _incomplete(path: Path, cfg: GuidanceConfig, missing: Sequence[str], hint: str = "") -> UserError:
    return UserError(
        f"prior {cfg.prior}: {path} is incomplete ({', '.join(missing)} missing or cut short){hint}; "
        f"fetch it: {fetch_command(cfg)}"
    )


def _single_file(path: Path) -> str:
    files = [each.name for kind in ("*.safetensors", "*.ckpt") for each in sorted(path.glob(kind))]
    return f": {files[0]} is a checkpoint in one file, which diffusers converts" if files else ""


def _only_pickles(cfg: GuidanceConfig, path: Path, pickled: Sequence[str]) -> UserError:
    convert = f"P.from_pretrained('{path}').save_pretrained('{path.name}-safetensors')"
    return UserError(
        f"prior {cfg.prior}: {', '.join(pickled)}: pickled weights are not loaded, since a pickle may run "
        f"code; where you trust it, convert it: "
        f'python -c "from diffusers import DiffusionPipeline as P; {convert}"'
    )


def _files(path: Path, part: str, cls: str) -> tuple[list[Path], bool]:
    """A module's weight files, there or not: one, or the shards that an index names; and whether they are the
    fp16 variant, which is taken where there is no other."""
    name = stem(cls)
    for variant in ("", ".fp16"):
        whole = path / part / f"{name}{variant}.safetensors"
        if whole.is_file():
            return [whole], bool(variant)
        index = path / part / f"{name}.safetensors.index{variant}.json"
        if index.is_file():
            return _shards(index), bool(variant)
    return [path / part / f"{name}.safetensors"], False


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        return [index]  # which is no file of weights: it is told as the one that is cut short
    return [index.with_name(name) for name in names]


def _is_whole(path: Path) -> bool:
    try:
        with safe_open(path, framework="numpy") as tensors:  # checks the header against the file's length
            return bool(tensors.keys())
    except Exception:  # safetensors' own error type is private to its version
        return False


def _stamp(path: Path) -> str:
    """What everything made with a prior is stamped: its card says what this project made it of, if it did."""
    card = path / "card.json"
    if not card.is_file():
        return ""
    try:
        return "random" if _json(card).get("random") else "toy"
    except ValueError:
        raise UserError(f"{card} is no card of a prior; remove it, or copy the folder again") from None


# ---- whether it is understood


def _check_classes(
    layout: Layout, index: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]
) -> None:
    """Every part is of the class that the family reads it with."""
    models, tokenizers = layout.here(index)
    for part, cls in {**models, **tokenizers}.items():
        expected = cls.partition(".")[2]
        named = (index.get(part) or (None, None))[-1]
        written = settings.get(part, {}).get("_class_name")
        for found in (named, written):
            if found not in (None, expected, f"{expected}Fast"):
                raise UserError(f"{part} is a {found}, and {layout.pipeline} is read here with {expected}")
        kind = settings.get(part, {}).get("model_type")
        if kind is not None and not str(kind).startswith("t5" if "T5" in expected else "clip"):
            raise UserError(f"{part} is of the type {kind}, and is read here with {expected}")
    switches = {*_OF_PIPELINES, *layout.switches}
    _only_known("model_index.json", index, switches, {key: (None, False) for key in ("is_cosxl_edit",)})


def _check_scheduler(layout: Layout, settings: Mapping[str, Any]) -> None:
    name = settings.get("_class_name")
    known = {"FlowMatchEulerDiscreteScheduler"} if layout.flow else ALPHA_SCHEDULERS
    if name not in known:
        what = "flow" if layout.flow else "noise schedule ᾱ"
        raise UserError(f"scheduler '{name}' is not understood as a {what}{nearest(str(name), known)}")
    if layout.flow:
        free = {"num_train_timesteps", "shift", *_OF_SAMPLING}
        return _only_known("scheduler", settings, free, _FLOW_ONLY)
    _only_known("scheduler", settings, _BETAS | _OF_SAMPLING, _ALPHA_ONLY)
    if settings.get("rescale_betas_zero_snr") and name not in _RESCALING:
        raise UserError(f"scheduler: {name} does not apply rescale_betas_zero_snr")
    count, betas = settings.get("num_train_timesteps", 1000), settings.get("trained_betas")
    if not isinstance(count, int) or count < 1:
        raise UserError(f"scheduler: num_train_timesteps = {count} is no number of timesteps")
    if betas is not None and (not isinstance(betas, list) or len(betas) != count):
        raise UserError(f"scheduler: trained_betas must hold {count} numbers, one for each timestep")
    return None


def _check_autoencoder(layout: Layout, settings: Mapping[str, Any]) -> None:
    _only_known(
        "vae",
        settings,
        _KL_SHAPE | set(layout.latents),
        {key: (None, 0, 0.0) for key in _OF_LATENTS if key not in layout.latents},
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


def _check_denoiser(layout: Layout, settings: Mapping[str, Mapping[str, Any]]) -> None:
    part = layout.denoiser
    about = settings[part]
    if not isinstance(about.get("sample_size"), int):
        raise UserError(f"{part}: sample_size = {about.get('sample_size')} is no side of a square")
    channels, latents = about.get("in_channels", 4), settings.get("vae", {}).get("latent_channels", 4)
    if "vae" in settings and channels != latents:
        raise UserError(
            f"{part} takes {channels} channels and vae makes {latents}: it wants more than a prompt"
        )
    if part != "unet":
        return
    only = {
        "addition_embed_type": layout.added,
        "class_embed_type": (None,),
        "num_class_embeds": (None,),
        "time_cond_proj_dim": (None,),
        "encoder_hid_dim_type": (None, "text_proj"),
    }
    for key, allowed in only.items():
        if about.get(key) not in allowed:
            raise UserError(f"unet: {key} = {about.get(key)} asks for an input that is not given here")


def _only_known(
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


def _missing_words(folder: Path, cls: str) -> list[str]:
    """The files that a tokenizer lacks."""
    names = ["tokenizer_config.json"]
    if not (folder / "tokenizer.json").is_file():
        own = ["spiece.model"] if cls == _T5_WORDS else ["vocab.json", "merges.txt"]
        names += own if any((folder / name).is_file() for name in own) else ["tokenizer.json"]
    return [
        f"{folder.name}/{name}"
        for name in names
        if not (folder / name).is_file() or not (folder / name).stat().st_size
    ]


def _check_words(folder: Path, part: str, cls: str, encoder: Mapping[str, Any], encoder_cls: str) -> None:
    """A tokenizer's vocabulary is whole, and fits the text encoder."""
    if not (folder / "tokenizer.json").is_file() and cls == _T5_WORDS:
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
    if cls != _CLIP_WORDS:
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
    if encoder_cls == _PROJECTED and end != (max(vocabulary.values()) if asked == 2 else asked):
        raise UserError(f"{part} ends a prompt with {end}, and its text encoder pools at another token")


def _vocabulary(folder: Path) -> tuple[dict[str, int], set[str], set[str]]:
    """{token: id}, what merges make, and the tokens that stand for themselves."""
    marks: dict[str, int] = {}
    if (folder / "tokenizer.json").is_file():
        about = _json(folder / "tokenizer.json")
        model = about["model"]
        held = model["vocab"]
        vocabulary = held if isinstance(held, dict) else {piece[0]: n for n, piece in enumerate(held)}
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model.get("merges") or ()]
        marks = {mark["content"]: int(mark["id"]) for mark in about.get("added_tokens") or ()}
    else:
        vocabulary = _json(folder / "vocab.json")
        lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
        pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
        if (folder / "added_tokens.json").is_file():
            marks = _json(folder / "added_tokens.json")
        marks |= {mark: vocabulary[mark] for key in _MARKS if (mark := _mark(folder, key)) in vocabulary}
    merged = {first + second for first, second in pairs}
    return {token: int(n) for token, n in {**vocabulary, **marks}.items()}, merged, set(marks)


_MARKS = ("bos_token", "eos_token", "unk_token", "pad_token")


def _mark(folder: Path, key: str) -> str:
    """A special token, as one of the tokenizer's two files says; CLIP's own where neither does."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        value = _json(folder / name).get(key) if (folder / name).is_file() else None
        if value:
            return str(value["content"] if isinstance(value, dict) else value)
    return "<|startoftext|>" if key == "bos_token" else "<|endoftext|>"


def _length(token: str) -> int:
    """Symbols of a CLIP token, the mark of a word's end not counted."""
    return len(token.removesuffix("</w>")) or 1
