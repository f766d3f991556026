"""A diffusion model as a denoiser, from any folder or Hub id of a pipeline whose family is known."""

import hashlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor

from harness.config import GuidanceConfig, UserError, first_line, nearest
from harness.guidance import families, hub
from harness.guidance.families import FAMILIES
from harness.threads import torch_threads

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
_STEMS = {part: families.stem(cls) for family in FAMILIES.values() for part, cls in family.models.items()}
PATTERNS = (  # the files of a repository that a prior of any family is made of
    "model_index.json",
    "card.json",
    "scheduler/*",
    "tokenizer*/*",
    *(f"{part}/config.json" for part in _STEMS),
    *(f"{part}/{stem}.safetensors" for part, stem in _STEMS.items()),
    *(f"{part}/{stem}.safetensors.index.json" for part, stem in _STEMS.items()),
    *(f"{part}/{stem}-*.safetensors" for part, stem in _STEMS.items()),  # the shards that the index names
)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Guidance:
    """A frozen diffusion model: noise prediction with and without a prompt, noise schedule, autoencoder.

    Latents x are in the denoiser's scale (the autoencoder's code times its scaling factor; pixels in [-1, 1]
    where there is no autoencoder). What differs between pipelines is in `family`. The denoiser and the
    autoencoder are called in micro-batches of one fixed shape, padded: on a CPU a sample's bits then depend
    neither on how many others there are nor on where it stands among them.
    """

    def __init__(self, cfg: GuidanceConfig, folder: Path, tag: str, device: torch.device):
        self.cfg, self.folder, self.tag, self.device = cfg, folder, tag, device
        self.dtype = _DTYPES[cfg.dtype]
        self.weights_hash = _digest(_weights(folder, cfg))
        self.stamp = _stamp(folder)
        index = _index(folder, cfg)

        def read(part: str, cls: str) -> Any:
            if part == "scheduler" or part.startswith("tokenizer"):
                return families.load_class(cls).from_pretrained(folder / part, local_files_only=True)
            variant = {"variant": "fp16"} if _files(folder, part, cls)[1] else {}
            loaded = families.load_class(cls).from_pretrained(
                folder, subfolder=part, use_safetensors=True, local_files_only=True, **variant
            )
            # Cast afterwards: the loaders' keyword for it differs between versions (torch_dtype, dtype).
            return torch.nn.Module.to(loaded, device, self._dtype_of(part, cls)).eval().requires_grad_(False)

        try:
            self.family = families.load(families.choose(index), index, read, device)
        except UserError as error:
            raise UserError(f"prior {cfg.prior}: {error}") from None
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
            raise UserError(
                f"prior {cfg.prior}: {folder} cannot be loaded: {first_line(error)}; fetch it again: "
                f"{fetch_command(cfg)}"
            ) from error
        self.prediction_type = self.family.prediction_type
        self.alphas_cumprod_T = self.family.alphas_cumprod_T
        self.num_train_timesteps = len(self.alphas_cumprod_T)
        self.latent_shape, self.image_size = self.family.latent_shape, self.family.image_size
        # About eight images of 64×64 per call: what a decoder holds grows with the pixels.
        self._vae_batch = max(1, min(8, 8 * 64**2 // self.image_size**2))
        self._embeddings: dict[str, Tensor] = {}
        self.is_compiled, self._largest = False, 0
        self._format = torch.contiguous_format

    @classmethod
    def load(
        cls, cfg: GuidanceConfig, device: torch.device | str = "cpu", *, local_files_only: bool = False
    ) -> "Guidance":
        """The prior that `cfg` names; a Hub id is fetched unless `local_files_only`.

        Raises UserError, with the command that fetches it, where it is missing or incomplete; never takes
        another.
        """
        folder, tag = _locate(cfg, local_files_only)
        return cls(cfg, folder, tag, torch.device(device))

    def compile(self) -> None:
        """From now on the denoiser is compiled code (torch.compile), made at the first call of each shape."""
        if self.device.type == "cuda":  # not compiled it is slower: torch's group normalisation copies it
            self._format = torch.channels_last
        denoiser = self.family.denoiser.to(memory_format=self._format)
        self.family.denoiser = torch.compile(denoiser, dynamic=False)
        self.is_compiled = True

    @property
    def record(self) -> dict[str, Any]:
        """What a run's records keep of its prior; `is_toy` is what they kept before there was a stamp."""
        toy = self.stamp == "toy"
        return {"tag": self.tag, "weights_hash": self.weights_hash, "stamp": self.stamp, "is_toy": toy}

    @property
    def t_range(self) -> tuple[int, int]:
        """Inclusive timestep range of `cfg.t_range`, inside 0…T−1."""
        low, high = (int(share * self.num_train_timesteps) for share in self.cfg.t_range)
        return low, min(high, self.num_train_timesteps - 1)

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Text embeddings [n, L, D], float32; each prompt is encoded once, by itself, and kept."""
        for prompt in prompts:
            if prompt not in self._embeddings:
                self._embeddings[prompt] = self._encode_text(prompt)
        return torch.stack([self._embeddings[prompt] for prompt in prompts])

    def _encode_text(self, prompt: str) -> Tensor:
        with _one_thread(self.device):
            return self.family.embed(prompt)

    def _dtype_of(self, part: str, cls: str) -> torch.dtype:
        if part in ("unet", "transformer"):
            return self.dtype
        # Called rarely: in float32 neither colours nor embeddings depend on the denoiser's dtype. But a T5 is
        # larger than the denoiser, and was trained in bfloat16.
        return (
            torch.bfloat16
            if cls.endswith("T5EncoderModel") and self.cfg.dtype != "float32"
            else torch.float32
        )

    @torch.no_grad()
    def predict_noise(self, x_t_RCHW: Tensor, t_R: Tensor, cond_RLD: Tensor) -> tuple[Tensor, Tensor]:
        """(ε(x_t, ∅, t), ε(x_t, y, t)), float32 [R,C,H,W] each, whatever the prior was trained to predict."""
        uncond_RLD = self.embed([""]).expand(len(t_R), -1, -1)
        # A run's two samples stand next to each other: [∅, y, ∅, y, …].
        context = torch.stack([uncond_RLD, cond_RLD], dim=1).flatten(0, 1).to(self.dtype)
        x_t = x_t_RCHW.repeat_interleave(2, dim=0)
        t = t_R.to(self.device).repeat_interleave(2)
        x = self.family.model_input(x_t, t).to(self.dtype)
        # A GPU's bits depend on much else: there the pack is one call, and compiled code keeps its shape.
        self._largest = max(self._largest, len(t)) if self.is_compiled else len(t)
        if self.device.type == "cpu" and not self.is_compiled:
            out = _side_by_side(self._denoise, self.cfg.microbatch, x, t, context).float()
        else:
            size = self.cfg.microbatch if self.device.type == "cpu" else self._largest
            out = _in_microbatches(self._denoise, size, x, t, context).float()
        eps = self.family.noise(out, x_t, t)
        return eps[0::2], eps[1::2]

    def _denoise(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.family.denoise(x.contiguous(memory_format=self._format), t, context).contiguous()

    def cfg_noise(self, eps_uncond_RCHW: Tensor, eps_cond_RCHW: Tensor) -> Tensor:
        """ε̂ = ε_∅ + s·(ε_y − ε_∅), classifier-free guidance as usual (threestudio's s is s−1 here)."""
        return eps_uncond_RCHW + self.cfg.cfg_scale * (eps_cond_RCHW - eps_uncond_RCHW)

    def add_noise(self, x_RCHW: Tensor, eps_RCHW: Tensor, t_R: Tensor) -> Tensor:
        """x_t = √ᾱ_t·x + √(1−ᾱ_t)·ε (DreamTime, eq. 1)."""
        t_R = t_R.to(self.device)
        signal_R, noise_R = self.family.signal_T[t_R], self.family.noise_T[t_R]
        return signal_R[:, None, None, None] * x_RCHW + noise_R[:, None, None, None] * eps_RCHW

    @torch.no_grad()
    def decode(self, z_NCHW: Tensor) -> Tensor:
        """Images [N,3,H,W] in [0, 1], float32, from latents."""
        with _one_thread(self.device):
            images = _in_microbatches(self.family.decode, self._vae_batch, z_NCHW.float())
        return (images / 2 + 0.5).clamp(0.0, 1.0)

    @torch.no_grad()
    def encode(self, images_NCHW: Tensor) -> Tensor:
        """Latents (the mean of the code) from images [N,3,H,W] in [0, 1]."""
        images = images_NCHW.float() * 2 - 1
        with _one_thread(self.device):
            return _in_microbatches(self.family.encode, self._vae_batch, images)

    def flat_code(self, rgb: Sequence[float]) -> Tensor:
        """Latent code [C] of a flat colour: the middle of the encoded image, away from its padded edges."""
        side = self.image_size
        colour_3 = torch.tensor(rgb, dtype=torch.float32, device=self.device)
        code_CHW = self.encode(colour_3[None, :, None, None].expand(1, 3, side, side))[0]
        return code_CHW[:, code_CHW.shape[1] // 2, code_CHW.shape[2] // 2]


def _one_thread(device: torch.device) -> AbstractContextManager[None]:
    """Inside, torch uses one CPU thread: how a float32 convolution is split decides its last bits, and a run
    must not notice how many cores a worker has. What is called here is seldom called."""
    return torch_threads(1 if device.type == "cpu" else None)


@torch.no_grad()
def _side_by_side(call: Callable[..., Tensor], size: int, *tensors: Tensor) -> Tensor:
    """`_in_microbatches` on a CPU, a core to each slice: no bit depends on how many cores there are, and no
    core waits for another within an operation."""
    threads = torch.get_num_threads()
    with _one_thread(tensors[0].device), ThreadPoolExecutor(threads) as pool:
        return _in_microbatches(torch.no_grad()(call), size, *tensors, run=pool.map)


def _in_microbatches(call: Callable[..., Tensor], size: int, *tensors: Tensor, run: Callable = map) -> Tensor:
    """`call` over slices of exactly `size` samples; the last is padded with zeros, later cut off."""
    count = len(tensors[0])
    missing = -count % size
    if missing:
        tensors = tuple(torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) for part in tensors)
    return torch.cat(list(run(call, *(part.split(size) for part in tensors))))[:count]


def find(cfg: GuidanceConfig) -> hub.Stored:
    """The weights of the prior that `cfg` names; loads no model, contacts nobody. Raises as Guidance.load."""
    folder, tag = _locate(cfg, local_only=True)
    files = _weights(folder, cfg)
    return hub.Stored(tag, folder, tuple(files), _digest(files))


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


def _locate(cfg: GuidanceConfig, local_only: bool) -> tuple[Path, str]:
    """The prior's folder on disk, and its tag."""
    known = [index.parent.name for index in WEIGHTS.glob("*/model_index.json")]
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


def _index(folder: Path, cfg: GuidanceConfig) -> dict[str, Any]:
    """model_index.json; UserError where it is missing or cut short."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        index = None
    if not isinstance(index, dict):
        raise _incomplete(folder, cfg, ["model_index.json"])
    return index


def _weights(folder: Path, cfg: GuidanceConfig) -> list[Path]:
    """The weight files of a complete prior; UserError where something is missing."""
    index = _index(folder, cfg)
    try:
        family = families.choose(index)
    except UserError as error:
        raise UserError(f"prior {cfg.prior}: {error}") from None
    models = {part: cls for part, cls in family.models.items() if families.is_here(family, index, part)}
    needed = ["scheduler/scheduler_config.json"]
    needed += [part for part in family.tokenizers if families.is_here(family, index, part)]
    needed += [f"{part}/config.json" for part in models]
    missing = [name for name in needed if not (folder / name).exists()]
    files: list[Path] = []
    for part, cls in models.items():
        found, _ = _files(folder, part, cls)
        missing += [f"{part}/{path.name}" for path in found if not _is_whole(path)]
        files += found
    if missing:
        raise _incomplete(folder, cfg, missing)
    for part, cls in family.tokenizers.items():
        is_sentencepiece = cls.endswith("T5Tokenizer") and not (folder / part / "tokenizer.json").is_file()
        if is_sentencepiece and part in needed and importlib.util.find_spec("sentencepiece") is None:
            raise UserError(
                f"prior {cfg.prior}: its {part} is read by sentencepiece, which is not installed: "
                "pip install sentencepiece"
            )
    return files


def _incomplete(folder: Path, cfg: GuidanceConfig, missing: Sequence[str]) -> UserError:
    return UserError(
        f"prior {cfg.prior}: {folder} is incomplete ({', '.join(missing)} missing or cut short); "
        f"fetch it: {fetch_command(cfg)}"
    )


def _files(folder: Path, part: str, cls: str) -> tuple[list[Path], bool]:
    """A module's weight files, there or not: one, or the shards that an index names; and whether they are the
    fp16 variant, which is taken where there is no other."""
    stem = families.stem(cls)
    for variant in ("", ".fp16"):
        whole = folder / part / f"{stem}{variant}.safetensors"
        if whole.is_file():
            return [whole], bool(variant)
        index = folder / part / f"{stem}.safetensors.index{variant}.json"
        if index.is_file():
            return _shards(index), bool(variant)
    return [folder / part / f"{stem}.safetensors"], False


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        return [index]  # which is no file of weights: it is told as the one that is cut short
    return [index.with_name(name) for name in names]


def _stamp(folder: Path) -> Literal["toy", "random", ""]:
    """What everything made with a prior is stamped: its card says what this project made it of, if it did."""
    card = folder / "card.json"
    if not card.is_file():
        return ""
    try:
        return "random" if json.loads(card.read_text(encoding="utf-8")).get("random") else "toy"
    except (ValueError, AttributeError):
        raise UserError(f"{card} is no card of a prior; remove it, or copy the folder again") from None


def _digest(files: Sequence[Path]) -> str:
    """One sha256 over the weight files."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.parent.name}:{hub.sha256_named(path)}\n".encode())
    return digest.hexdigest()


def _is_whole(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as tensors:  # checks the header against the file's length
            return bool(tensors.keys())
    except Exception:  # safetensors' own error type is private to its version
        return False
