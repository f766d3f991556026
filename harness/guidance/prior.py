"""A diffusion model as a denoiser, from any folder or Hub id of a pipeline whose family is known."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from harness.config import GuidanceConfig, UserError, first_line
from harness.guidance import folder as folders
from harness.guidance import lora
from harness.guidance.folder import PriorFolder
from harness.threads import torch_threads

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Shapes:
    """Sizes of a prior: latents (C, H, W), conditions (L, D), the denoiser's linear layers (out, in) by name,
    and the width of its embedding of t."""

    latent: tuple[int, int, int]
    condition: tuple[int, int]
    linears: Mapping[str, tuple[int, int]]
    time: int


def quieten_libraries() -> None:
    """No progress bars of what is read or written in a moment, no advice of packages that change nothing."""
    import diffusers
    import transformers

    for each in (diffusers, transformers):
        each.utils.logging.set_verbosity_error()
        each.utils.logging.disable_progress_bar()


@torch.no_grad()
def _perturb(denoiser: torch.nn.Module, share: float) -> None:
    """Add noise of `share` times their deviation to the last layer's weights, always the same noise."""
    last = [weights for weights in denoiser.parameters() if weights.dim() > 1][-1]
    noise = torch.randn(last.shape, generator=torch.Generator().manual_seed(0))
    last += share * last.std() * noise.to(last)


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
        if cfg.perturb:
            _perturb(self.family.denoiser, cfg.perturb)
        self.prediction_type = self.family.prediction_type
        self.alphas_cumprod_T = self.family.alphas_cumprod_T
        self.num_train_timesteps = len(self.alphas_cumprod_T)
        self.latent_shape, self.image_size = self.family.latent_shape, self.family.image_size
        self._seldom = _on_one_thread if device.type == "cpu" else _in_turn
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
        quieten_libraries()
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
                with torch_threads(1 if self.device.type == "cpu" else None):
                    self._embeddings[prompt] = self.family.embed(prompt)
        return torch.stack([self._embeddings[prompt] for prompt in prompts])

    def predict_noise(self, x_t_RCHW: Tensor, t_R: Tensor, cond_RLD: Tensor) -> tuple[Tensor, Tensor]:
        """(ε(x_t, ∅, t), ε(x_t, y, t)): the two samples of classifier-free guidance; see `predict`."""
        uncond, cond = self.predict(x_t_RCHW, t_R, self.embed([""]).expand(len(t_R), -1, -1), cond_RLD)
        return uncond, cond

    def predict(
        self,
        x_t_RCHW: Tensor,
        t_R: Tensor,
        *conds_RLD: Tensor,
        updates: Mapping[str, Tensor] | None = None,
        grad: bool = False,
    ) -> tuple[Tensor, ...]:
        """ε(x_t, y, t) for each of K conditions in one call of the denoiser, float32 [R,C,H,W] each, whatever
        the prior was trained to predict. A t below 0 stands for 0.

        `updates` are each run's own of the denoiser, [R, …] by name (`harness.guidance.lora`). With `grad`
        the result is differentiable in x_t, the conditions and the updates; without, it has no graph.
        """
        branches = len(conds_RLD)

        def samples(value: Tensor) -> Tensor:
            """A run's samples stand next to each other: [∅, y, ∅, y, …]."""
            return value[:, None].expand(-1, branches, *value.shape[1:]).flatten(0, 1)

        with torch.set_grad_enabled(grad):
            x_t, t = samples(x_t_RCHW), samples(t_R.to(self.device).clamp(min=0))
            context = torch.stack(conds_RLD, dim=1).flatten(0, 1).to(self.dtype)
            x = self.family.model_input(x_t, t).to(self.dtype)
            parts = {name: samples(value) for name, value in (updates or {}).items()}
            out = self._call(branches, grad, parts, x, t, context)
            eps = self.family.noise(out.float(), x_t, t)
        return tuple(eps[branch::branches] for branch in range(branches))

    def _call(
        self, branches: int, grad: bool, updates: Mapping[str, Tensor], x: Tensor, t: Tensor, context: Tensor
    ) -> Tensor:
        """The denoiser's output for samples, each with its own updates."""
        is_compiled = self.is_compiled and not (grad or updates)  # compiled code knows neither
        size, run = len(x), _in_turn  # a GPU's bits depend on much else: there the pack is one call
        if self.device.type == "cpu":
            size, run = self.cfg.microbatch, _in_turn if is_compiled else _side_by_side
        elif is_compiled:  # which keeps its shapes
            size = self._largest[branches] = max(self._largest.get(branches, 0), len(x))
        if is_compiled or not (self.is_compiled or updates):
            return _in_microbatches(self._denoise, size, x, t, context, run=run)

        def denoise(x: Tensor, t: Tensor, context: Tensor, *parts: Tensor) -> Tensor:
            with lora.applied(dict(zip(updates, parts, strict=True))):
                return self._denoise(x, t, context)

        usual = self.family.denoiser
        self.family.denoiser = getattr(usual, "_orig_mod", usual)
        try:
            with lora.attached(self.family.denoiser, list(updates)):
                return _in_microbatches(denoise, size, x, t, context, *updates.values(), run=run)
        finally:
            self.family.denoiser = usual

    def _denoise(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.family.denoise(x.contiguous(memory_format=self._format), t, context).contiguous()

    @cached_property
    def shapes(self) -> Shapes:
        """What a method that learns may need to know."""
        denoiser = getattr(self.family.denoiser, "_orig_mod", self.family.denoiser)
        cond_L, cond_D = self.embed([""]).shape[1:]
        return Shapes(self.latent_shape, (cond_L, cond_D), lora.linears(denoiser), lora.time_width(denoiser))

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

    def decode(self, z_NCHW: Tensor) -> Tensor:
        """Images [N,3,H,W] in [0, 1], float32, from latents; differentiable where these have a graph."""
        images = _in_microbatches(self.family.decode, self._vae_batch, z_NCHW.float(), run=self._seldom)
        return (images / 2 + 0.5).clamp(0.0, 1.0)

    def encode(self, images_NCHW: Tensor) -> Tensor:
        """Latents (the mean of the code) from images [N,3,H,W] in [0, 1]."""
        images = images_NCHW.float() * 2 - 1
        return _in_microbatches(self.family.encode, self._vae_batch, images, run=self._seldom)

    def flat_code(self, rgb: Sequence[float]) -> Tensor:
        """Latent code [C] of a flat colour: the middle of the encoded image, away from its padded edges."""
        side = self.image_size
        colour_3 = torch.tensor(rgb, dtype=torch.float32, device=self.device)
        code_CHW = self.encode(colour_3[None, :, None, None].expand(1, 3, side, side))[0]
        return code_CHW[:, code_CHW.shape[1] // 2, code_CHW.shape[2] // 2]


_held: dict[tuple[GuidanceConfig, torch.device, bool], Guidance] = {}


def held(
    cfg: GuidanceConfig,
    device: torch.device | str = "cpu",
    *,
    compiled: bool = False,
    local_files_only: bool = False,
) -> Guidance:
    """`Guidance.load`, and `compile` if asked, kept for whoever asks for the same next; one at a time."""
    key = (cfg, torch.device(device), compiled)
    if key not in _held:
        _held.clear()
        guidance = Guidance.load(cfg, device, local_files_only=local_files_only)
        if compiled:
            guidance.compile()
        _held[key] = guidance
    return _held[key]


def _in_turn(call: Callable[..., Any], *slices: Sequence[Any]) -> list[Any]:
    return list(map(call, *slices))


def _on_one_thread(call: Callable[..., Any], *slices: Sequence[Any]) -> list[Any]:
    """How a float32 convolution is split among threads decides its last bits, and a run must not notice how
    many cores a worker has."""
    with torch_threads(1):
        return list(map(call, *slices))


def _side_by_side(call: Callable[..., Any], *slices: Sequence[Any]) -> list[Any]:
    """A core to each slice: no bit depends on how many cores there are, and no core waits for another within
    an operation."""
    threads = torch.get_num_threads()
    with torch_threads(1), ThreadPoolExecutor(threads) as pool:
        return list(pool.map(call, *slices))


def _in_microbatches(call: Callable[..., Tensor], size: int, *tensors: Tensor, run: Callable) -> Tensor:
    """`call` over slices of exactly `size` samples; the last is padded with zeros, later cut off.

    Differentiable where a tensor has a graph: gradients are taken slice by slice, too.
    """
    if torch.is_grad_enabled() and any(part.requires_grad for part in tensors):
        return _Slices.apply(call, size, run, *tensors)  # type: ignore[return-value]
    return torch.cat(run(torch.no_grad()(call), *_slices(size, tensors)))[: len(tensors[0])]


def _slices(size: int, tensors: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    missing = -len(tensors[0]) % size
    if missing:
        tensors = [torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) for part in tensors]
    return [part.split(size) for part in tensors]


class _Slices(torch.autograd.Function):
    """`_in_microbatches` with a graph for each slice."""

    @staticmethod
    def forward(ctx: Any, call: Callable[..., Tensor], size: int, run: Callable, *tensors: Tensor) -> Tensor:
        wanted = ctx.needs_input_grad[3:]

        def with_graph(*parts: Tensor) -> tuple[Tensor, list[Tensor]]:
            with torch.enable_grad():
                leaves = [part.detach() for part in parts]
                learned = [leaf.requires_grad_() for leaf, want in zip(leaves, wanted, strict=True) if want]
                return call(*leaves), learned

        ctx.size, ctx.run, ctx.count, ctx.wanted = size, run, len(tensors[0]), wanted
        ctx.done = run(with_graph, *_slices(size, tensors))
        return torch.cat([out.detach() for out, _ in ctx.done])[: ctx.count]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        def back(done: tuple[Tensor, list[Tensor]], grad: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(*done, grad, allow_unused=True, materialize_grads=True)

        found = ctx.run(back, ctx.done, *_slices(ctx.size, [grad]))
        ctx.done = None
        grads = (torch.cat(each)[: ctx.count] for each in zip(*found, strict=True))
        return (None, None, None, *(next(grads) if want else None for want in ctx.wanted))
