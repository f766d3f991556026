"""A latent diffusion model as a denoiser, from any folder or Hub id laid out like Stable Diffusion."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor

from harness.config import GuidanceConfig, UserError, first_line, nearest
from harness.guidance import hub

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
_MODELS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
PATTERNS = (  # the files of a repository that a prior is made of
    "model_index.json",
    "scheduler/*",
    "tokenizer/*",
    *(f"{part}/config.json" for part in _MODELS),
    *(f"{part}/{stem}.safetensors" for part, stem in _MODELS.items()),
)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Guidance:
    """A frozen diffusion model: noise prediction with and without a prompt, noise schedule, autoencoder.

    Latents x are in the denoiser's scale (the autoencoder's code times its scaling factor). The denoiser and
    the autoencoder are called in micro-batches of one fixed shape, padded: on a CPU a sample's bits then
    depend neither on how many others there are nor on where it stands among them.
    """

    def __init__(self, cfg: GuidanceConfig, folder: Path, tag: str, device: torch.device):
        from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        self.cfg, self.folder, self.tag, self.device = cfg, folder, tag, device
        self.dtype = _DTYPES[cfg.dtype]
        self.weights_hash = _digest(_weights(folder, cfg))
        self.stamp = _stamp(folder)

        def model(cls: Any, part: str) -> Any:
            only_fp16 = not (folder / part / f"{_MODELS[part]}.safetensors").is_file()
            variant = {"variant": "fp16"} if only_fp16 else {}
            loaded = cls.from_pretrained(
                folder, subfolder=part, use_safetensors=True, local_files_only=True, **variant
            )
            # Cast afterwards: the loaders' keyword for it differs between versions (torch_dtype, dtype).
            return torch.nn.Module.to(loaded, device, torch.float32).eval().requires_grad_(False)

        try:
            self.unet: Any = torch.nn.Module.to(model(UNet2DConditionModel, "unet"), self.dtype)
            # Called rarely: in float32 neither colours nor embeddings depend on the denoiser's dtype.
            self.vae = model(AutoencoderKL, "vae")
            self.text_encoder = model(CLIPTextModel, "text_encoder")
            self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
            scheduler: Any = DDPMScheduler.from_pretrained(
                folder, subfolder="scheduler", local_files_only=True
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise UserError(
                f"prior {cfg.prior}: {folder} cannot be loaded: {first_line(error)}; fetch it again: "
                f"{fetch_command(cfg)}"
            ) from error
        if device.type == "cuda":  # on CPUs it was no faster, in float32 and in bfloat16
            self.unet = self.unet.to(memory_format=torch.channels_last)
        self.prediction_type = str(scheduler.config["prediction_type"])
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise UserError(
                f"prior {cfg.prior}: prediction type '{self.prediction_type}' is not supported; "
                "choose a prior that predicts epsilon or v_prediction"
            )
        self.alphas_cumprod_T = scheduler.alphas_cumprod.float().cpu()
        self.num_train_timesteps = len(self.alphas_cumprod_T)
        self._signal_T = self.alphas_cumprod_T.sqrt().to(device)
        self._noise_T = (1.0 - self.alphas_cumprod_T).sqrt().to(device)
        side = int(self.unet.config["sample_size"])
        self.latent_shape = (int(self.unet.config["in_channels"]), side, side)
        self.image_size = side * 2 ** (len(self.vae.config["block_out_channels"]) - 1)
        self._scale = float(self.vae.config["scaling_factor"])
        self._shift = float(self.vae.config.get("shift_factor") or 0.0)
        # About eight images of 64×64 per call: what a decoder holds grows with the pixels.
        self._vae_batch = max(1, min(8, 8 * 64**2 // self.image_size**2))
        self._embeddings: dict[str, Tensor] = {}

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
        length = min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
        tokens = self.tokenizer(
            prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        if len(self.tokenizer(prompt).input_ids) > length:
            warnings.warn(f"prompt cut: longer than the prior's {length} tokens: {prompt}", stacklevel=3)
        with _one_thread(self.device):
            return self.text_encoder(tokens.to(self.device))[0][0]

    @torch.no_grad()
    def predict_noise(self, x_t_RCHW: Tensor, t_R: Tensor, cond_RLD: Tensor) -> tuple[Tensor, Tensor]:
        """(ε(x_t, ∅, t), ε(x_t, y, t)), float32 [R,C,H,W] each, whatever the prior was trained to predict."""
        uncond_RLD = self.embed([""]).expand(len(t_R), -1, -1)
        # A run's two samples stand next to each other: [∅, y, ∅, y, …].
        context = torch.stack([uncond_RLD, cond_RLD], dim=1).flatten(0, 1).to(self.dtype)
        x_t = x_t_RCHW.repeat_interleave(2, dim=0)
        t = t_R.to(self.device).repeat_interleave(2)
        out = _in_microbatches(self._denoise, self.cfg.microbatch, x_t.to(self.dtype), t, context).float()
        if self.prediction_type == "v_prediction":
            out = self._signal_T[t][:, None, None, None] * out + self._noise_T[t][:, None, None, None] * x_t
        return out[0::2], out[1::2]

    def _denoise(self, x_t: Tensor, t: Tensor, context: Tensor) -> Tensor:
        if self.device.type == "cuda":
            x_t = x_t.contiguous(memory_format=torch.channels_last)
        return self.unet(x_t, t, encoder_hidden_states=context).sample.contiguous()

    def cfg_noise(self, eps_uncond_RCHW: Tensor, eps_cond_RCHW: Tensor) -> Tensor:
        """ε̂ = ε_∅ + s·(ε_y − ε_∅), classifier-free guidance as usual (threestudio's s is s−1 here)."""
        return eps_uncond_RCHW + self.cfg.cfg_scale * (eps_cond_RCHW - eps_uncond_RCHW)

    def add_noise(self, x_RCHW: Tensor, eps_RCHW: Tensor, t_R: Tensor) -> Tensor:
        """x_t = √ᾱ_t·x + √(1−ᾱ_t)·ε (DreamTime, eq. 1)."""
        t_R = t_R.to(self.device)
        signal_R, noise_R = self._signal_T[t_R], self._noise_T[t_R]
        return signal_R[:, None, None, None] * x_RCHW + noise_R[:, None, None, None] * eps_RCHW

    @torch.no_grad()
    def decode(self, z_NCHW: Tensor) -> Tensor:
        """Images [N,3,H,W] in [0, 1], float32, from latents."""
        codes = z_NCHW.float() / self._scale + self._shift
        with _one_thread(self.device):
            images = _in_microbatches(lambda z: self.vae.decode(z).sample, self._vae_batch, codes)
        return (images / 2 + 0.5).clamp(0.0, 1.0)

    @torch.no_grad()
    def encode(self, images_NCHW: Tensor) -> Tensor:
        """Latents (the mean of the code) from images [N,3,H,W] in [0, 1]."""
        images = images_NCHW.float() * 2 - 1
        with _one_thread(self.device):
            codes = _in_microbatches(lambda i: self.vae.encode(i).latent_dist.mean, self._vae_batch, images)
        return (codes - self._shift) * self._scale

    def flat_code(self, rgb: Sequence[float]) -> Tensor:
        """Latent code [C] of a flat colour: the middle of the encoded image, away from its padded edges."""
        side = self.image_size
        colour_3 = torch.tensor(rgb, dtype=torch.float32, device=self.device)
        code_CHW = self.encode(colour_3[None, :, None, None].expand(1, 3, side, side))[0]
        return code_CHW[:, code_CHW.shape[1] // 2, code_CHW.shape[2] // 2]


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """Inside, torch uses one CPU thread: how a float32 convolution is split decides its last bits, and a run
    must not notice how many cores a worker has. What is called here is seldom called."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _in_microbatches(call: Callable[..., Tensor], size: int, *tensors: Tensor) -> Tensor:
    """`call` over slices of exactly `size` samples; the last is padded with zeros, later cut off."""
    count = len(tensors[0])
    parts = []
    for start in range(0, count, size):
        chunk = [tensor[start : start + size] for tensor in tensors]
        missing = size - len(chunk[0])
        if missing:
            chunk = [torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) for part in chunk]
        parts.append(call(*chunk))
    return torch.cat(parts)[:count]


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


def _weights(folder: Path, cfg: GuidanceConfig) -> list[Path]:
    """The weight files of a complete prior; UserError where something is missing."""
    needed = ["model_index.json", "scheduler/scheduler_config.json", "tokenizer"]
    needed += [f"{part}/config.json" for part in _MODELS]
    missing = [name for name in needed if not (folder / name).exists()]
    files: list[Path] = []
    for part, stem in _MODELS.items():
        candidates = [folder / part / f"{stem}{variant}.safetensors" for variant in ("", ".fp16")]
        weights = next((path for path in candidates if path.is_file()), None)
        if weights is None or not _is_whole(weights):
            missing.append(f"{part}/{stem}.safetensors")
        else:
            files.append(weights)
    if missing:
        raise UserError(
            f"prior {cfg.prior}: {folder} is incomplete ({', '.join(missing)} missing or cut short); "
            f"fetch it: {fetch_command(cfg)}"
        )
    return files


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
