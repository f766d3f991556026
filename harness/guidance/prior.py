"""A diffusion model as a denoiser, from any folder or Hub id of a pipeline whose family is known."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from harness.config import GuidanceConfig, UserError, first_line
from harness.guidance import folder as folders
from harness.guidance.folder import PriorFolder
from harness.threads import torch_threads

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Guidance:
    """A frozen diffusion model: noise prediction with and without a prompt, noise schedule, autoencoder.

    Latents x are in the denoiser's scale (the autoencoder's code times its scaling factor; pixels in [-1, 1]
    where there is no autoencoder). What differs between pipelines is in `family`. The denoiser and the
    autoencoder are called in micro-batches of one fixed shape, padded: on a CPU a sample's bits then depend
    neither on how many others there are nor on where it stands among them.
    """

    def __init__(self, cfg: GuidanceConfig, found: PriorFolder, device: torch.device):
        self.cfg, self.folder, self.tag, self.device = cfg, found.path, found.tag, device
        self.dtype = _DTYPES[cfg.dtype]
        self.record, self.stamp = found.record, found.stamp  # what a run keeps of it
        self.weights_hash, self.content_hash = found.weights_hash, found.content_hash

        try:
            self.family = found.family.load(
                found.path, found.index, found.scheduler, found.fp16, cfg.dtype, device
            )
        except UserError as error:
            raise UserError(f"prior {cfg.prior}: {error}") from None
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
            raise UserError(
                f"prior {cfg.prior}: {found.path} cannot be loaded: {first_line(error)}; fetch it again: "
                f"{folders.fetch_command(cfg)}"
            ) from error
        self.prediction_type = self.family.prediction_type
        self.alphas_cumprod_T = self.family.alphas_cumprod_T
        self.num_train_timesteps = len(self.alphas_cumprod_T)
        self.latent_shape, self.image_size = self.family.latent_shape, self.family.image_size
        # About eight images of 64×64 per call: what a decoder holds grows with the pixels.
        self._vae_batch = max(1, min(8, 8 * 64**2 // self.image_size**2))
        self._embeddings: dict[str, Tensor] = {}
        self.is_compiled = False
        self._largest: dict[int, int] = {}  # samples of a compiled call, by the number of conditions
        self._format = torch.contiguous_format

    @classmethod
    def load(
        cls, cfg: GuidanceConfig, device: torch.device | str = "cpu", *, local_files_only: bool = False
    ) -> "Guidance":
        """The prior that `cfg` names; a Hub id is fetched unless `local_files_only`.

        Raises UserError, with the command that fetches it, where it is missing or incomplete, and where it is
        not the one that `cfg.content` pins; never takes another.
        """
        found = folders.find(cfg, local_only=local_files_only)
        folders.check_content(cfg, found)
        return cls(cfg, found, torch.device(device))

    def compile(self) -> None:
        """From now on the denoiser is compiled code (torch.compile), made at the first call of each shape."""
        if self.device.type == "cuda":  # not compiled it is slower: torch's group normalisation copies it
            self._format = torch.channels_last
        denoiser = self.family.denoiser.to(memory_format=self._format)
        self.family.denoiser = torch.compile(denoiser, dynamic=False)
        self.is_compiled = True

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

    def predict_noise(self, x_t_RCHW: Tensor, t_R: Tensor, cond_RLD: Tensor) -> tuple[Tensor, Tensor]:
        """(ε(x_t, ∅, t), ε(x_t, y, t)): the two samples of classifier-free guidance; see `predict`."""
        uncond, cond = self.predict(x_t_RCHW, t_R, self.embed([""]).expand(len(t_R), -1, -1), cond_RLD)
        return uncond, cond

    @torch.no_grad()
    def predict(self, x_t_RCHW: Tensor, t_R: Tensor, *conds_RLD: Tensor) -> tuple[Tensor, ...]:
        """ε(x_t, y, t) for each of K conditions in one call of the denoiser, float32 [R,C,H,W] each, whatever
        the prior was trained to predict. A t below 0 stands for 0."""
        branches = len(conds_RLD)
        # A run's samples stand next to each other: [∅, y, ∅, y, …].
        context = torch.stack(conds_RLD, dim=1).flatten(0, 1).to(self.dtype)
        x_t = x_t_RCHW.repeat_interleave(branches, dim=0)
        t = t_R.to(self.device).clamp(min=0).repeat_interleave(branches)
        x = self.family.model_input(x_t, t).to(self.dtype)
        # A GPU's bits depend on much else: there the pack is one call, and compiled code keeps its shapes.
        most = max(self._largest.get(branches, 0), len(t)) if self.is_compiled else len(t)
        self._largest[branches] = most
        if self.device.type == "cpu" and not self.is_compiled:
            out = _side_by_side(self._denoise, self.cfg.microbatch, x, t, context).float()
        else:
            size = self.cfg.microbatch if self.device.type == "cpu" else most
            out = _in_microbatches(self._denoise, size, x, t, context).float()
        eps = self.family.noise(out, x_t, t)
        return tuple(eps[branch::branches] for branch in range(branches))

    def _denoise(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.family.denoise(x.contiguous(memory_format=self._format), t, context).contiguous()

    def cfg_noise(
        self, eps_uncond_RCHW: Tensor, eps_cond_RCHW: Tensor, scale: float | Tensor | None = None
    ) -> Tensor:
        """ε̂ = ε_∅ + s·(ε_y − ε_∅), classifier-free guidance as usual (threestudio's s is s−1 here)."""
        scale = self.cfg.cfg_scale if scale is None else scale
        return eps_uncond_RCHW + scale * (eps_cond_RCHW - eps_uncond_RCHW)

    def levels(self, t_R: Tensor) -> tuple[Tensor, Tensor]:
        """(√ᾱ_t, √(1−ᾱ_t)), float32 [R] each; (1, 0), the clean latent's, where t is below 0."""
        t_R = t_R.to(self.device)
        at_R, is_clean_R = t_R.clamp(min=0), t_R < 0
        signal_R, noise_R = self.family.signal_T[at_R], self.family.noise_T[at_R]
        return signal_R.masked_fill(is_clean_R, 1.0), noise_R.masked_fill(is_clean_R, 0.0)

    def add_noise(self, x_RCHW: Tensor, eps_RCHW: Tensor, t_R: Tensor) -> Tensor:
        """x_t = √ᾱ_t·x + √(1−ᾱ_t)·ε (DreamTime, eq. 1)."""
        signal_R, noise_R = self.levels(t_R)
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
