"""What each family of text-to-image pipelines does in its own way, behind one interface.

A family makes one tensor of a prompt, calls the denoiser, makes noise of what it predicts, and turns latents
into pictures. `Guidance` asks for nothing else. docs/priors.md says what the numbers mean in each.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from harness.config import UserError
from harness.guidance.folder import LAYOUTS, Layout, PriorFolder
from harness.guidance.reading import T5_TOKENS

# A step where nothing of the signal is left has no W_d and no x0. The smallest number that float16 tells from
# 0 stands for ᾱ = 0, as in diffusers' own schedulers for such models.
LEAST_ALPHA = 2.0**-24


@dataclass(frozen=True)
class Parts:
    """A loaded pipeline folder: modules and tokenizers by name, model_index.json, the noise scheduler."""

    models: Mapping[str, Any]
    tokenizers: Mapping[str, Any]
    index: Mapping[str, Any]
    scheduler: Any


class Family:
    """Base of the families: a UNet in the latent space of an autoencoder.

    `layout` names the parts of its folder. `alphas_cumprod_T` is float32 on the CPU; `signal_T` √ᾱ and
    `noise_T` √(1−ᾱ) on the device; `latent_shape` is (C, H, W); `image_size` is in pixels.
    """

    layout: ClassVar[Layout]

    def __init__(self, parts: Parts, device: torch.device):
        self.parts, self.device = parts, device
        self.denoiser: Any = parts.models[self.layout.denoiser]
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


class StableDiffusion(Family):
    """Stable Diffusion 1.x and 2.x: one CLIP text encoder; 2.x predicts v."""

    layout = LAYOUTS["StableDiffusionPipeline"]


class StableDiffusionXL(Family):
    """SDXL (Podell et al. 2023): two text encoders side by side, a pooled embedding, and the picture's size.

    The condition's last row is the pooled embedding, padded with zeros. The time ids say that the picture was
    neither scaled nor cropped. No prompt is all zeros where the folder's model_index.json says so, as SDXL's
    does.
    """

    layout = LAYOUTS["StableDiffusionXLPipeline"]

    def embed(self, prompt: str) -> Tensor:
        """[L + 1, D]: both encoders' last layers but one, then the second's pooled output."""
        first_LD, _ = self._penultimate(prompt, "")
        second_LD, pooled_P = self._penultimate(prompt, "_2")
        cond_LD = with_pooled(torch.cat([first_LD, second_LD], dim=1), pooled_P)
        is_empty = not prompt and self.parts.index.get("force_zeros_for_empty_prompt", True)
        return torch.zeros_like(cond_LD) if is_empty else cond_LD

    def denoise(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """See `Family.denoise`."""
        side, width = self.image_size, int(self.parts.models["text_encoder_2"].config.projection_dim)
        times = cond.new_tensor([side, side, 0, 0, side, side]).expand(len(x), -1)
        added = {"text_embeds": cond[:, -1, :width], "time_ids": times}
        return self.denoiser(x, t, encoder_hidden_states=cond[:, :-1], added_cond_kwargs=added).sample


class DeepFloydIF(Family):
    """DeepFloyd-IF, stage I: pixels in [-1, 1] instead of latents, T5, and a variance that is dropped."""

    layout = LAYOUTS["IFPipeline"]
    TOKENS = T5_TOKENS["IFPipeline"]

    def embed(self, prompt: str) -> Tensor:
        """T5's last state, [77, D]; the padding is masked inside T5 and shown to the denoiser."""
        ids = self._tokens(prompt.lower().strip(), "tokenizer", length=self.TOKENS)
        pad = self.parts.tokenizers["tokenizer"].pad_token_id
        return self.parts.models["text_encoder"](ids, attention_mask=(ids != pad).long())[0][0].float()

    def denoise(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """See `Family.denoise`."""
        return super().denoise(x, t, cond)[:, : self.latent_shape[0]]

    def _pixels_per_latent(self) -> int:
        return 1

    def decode(self, z_NCHW: Tensor) -> Tensor:
        """The pixels themselves."""
        return z_NCHW

    def encode(self, images_NCHW: Tensor) -> Tensor:
        """The pixels themselves."""
        return images_NCHW


class StableDiffusion3(Family):
    """SD 3 (Esser et al. 2024), a flow: x_σ = (1−σ)·x + σ·ε, and the denoiser predicts v = ε − x.

    Divided by n = √((1−σ)² + σ²) it is a noise schedule like the others', with ᾱ = (1−σ)²/n²; and
    ε = x_σ + (1−σ)·v. t counts the scheduler's own σ from the smallest. The condition's last row is the
    pooled embedding, padded with zeros; without its T5, which folders may lack, that part is zeros.
    """

    layout = LAYOUTS["StableDiffusion3Pipeline"]
    TOKENS = T5_TOKENS["StableDiffusion3Pipeline"]

    def __init__(self, parts: Parts, device: torch.device):
        # At σ = 1 no signal is left: a σ just below it stands for it, see LEAST_ALPHA.
        sigma_T = parts.scheduler.sigmas.double().cpu().sort().values.clamp(max=1.0 - LEAST_ALPHA**0.5)
        self._sigma_T = sigma_T.float().to(device)
        self._norm_T = ((1.0 - sigma_T) ** 2 + sigma_T**2).sqrt().float().to(device)
        super().__init__(parts, device)
        # Not from ᾱ, whose distance from 1 has few digits at small t.
        self.signal_T, self.noise_T = (1.0 - self._sigma_T) / self._norm_T, self._sigma_T / self._norm_T

    def _prediction_type(self) -> str:
        return "flow"

    def _alphas_cumprod(self) -> Tensor:
        return ((1.0 - self._sigma_T) / self._norm_T).square().cpu()

    def embed(self, prompt: str) -> Tensor:
        """[77 + 256 + 1, D]: both CLIPs side by side and padded with zeros, T5, and the pooled outputs."""
        first_LD, first_P = self._penultimate(prompt, "")
        second_LD, second_P = self._penultimate(prompt, "_2")
        width = int(self.denoiser.config["joint_attention_dim"])
        clip_LD = torch.cat([first_LD, second_LD], dim=1)
        clip_LD = functional.pad(clip_LD, (0, width - clip_LD.shape[1]))
        if "text_encoder_3" in self.parts.models:
            ids = self._tokens(prompt, "tokenizer_3", length=self.TOKENS)
            t5_LD = self.parts.models["text_encoder_3"](ids)[0][0].float()
        else:
            t5_LD = clip_LD.new_zeros(self.TOKENS, width)
        return with_pooled(torch.cat([clip_LD, t5_LD]), torch.cat([first_P, second_P]))

    def model_input(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_σ = n·x_t."""
        return self._norm_T[t][:, None, None, None] * x_t

    def denoise(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """See `Family.denoise`; the transformer's time is σ·T."""
        return self.denoiser(
            hidden_states=x,
            timestep=self._sigma_T[t] * len(self._sigma_T),
            encoder_hidden_states=cond[:, :-1],
            pooled_projections=cond[:, -1, : int(self.denoiser.config["pooled_projection_dim"])],
        ).sample

    def noise(self, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """ε̂ = x_σ + (1−σ)·v̂."""
        return self.model_input(x_t, t) + (1.0 - self._sigma_T[t])[:, None, None, None] * out


def with_pooled(cond_LD: Tensor, pooled_P: Tensor) -> Tensor:
    """[L + 1, D]: a pooled embedding as one more row, so that a prompt's condition stays one tensor."""
    return torch.cat([cond_LD, functional.pad(pooled_P, (0, cond_LD.shape[1] - len(pooled_P)))[None]])


FAMILIES: dict[str, type[Family]] = {
    family.layout.pipeline: family
    for family in (StableDiffusion, StableDiffusionXL, DeepFloydIF, StableDiffusion3)
}


def load_class(name: str) -> Any:
    """The class of `library.Name`."""
    library, _, cls = name.partition(".")
    return getattr(importlib.import_module(library), cls)


def load(found: PriorFolder, read: Callable[[str, str], Any], device: torch.device) -> Family:
    """The family of a folder; `read(part, class)` reads a module, a tokenizer or the scheduler.

    Raises UserError for a tokenizer that does not tell words apart.
    """
    models, tokenizers = found.layout.here(found.index)
    parts = Parts(
        models={part: read(part, cls) for part, cls in models.items()},
        tokenizers={part: read(part, cls) for part, cls in tokenizers.items()},
        index=found.index,
        scheduler=read("scheduler", found.scheduler),
    )
    for name, tokenizer in parts.tokenizers.items():
        _check_reads(name, tokenizer)
    return FAMILIES[found.layout.pipeline](parts, device)


PROBE = "a red car on the left"


def _check_reads(name: str, tokenizer: Any) -> None:
    """UserError where the words of a plain prompt do not come back from its tokens."""
    ids = tokenizer(PROBE, padding="max_length", max_length=32, truncation=True).input_ids
    back = tokenizer.decode(ids, skip_special_tokens=True)
    if "".join(back.split()).lower() != "".join(PROBE.split()):
        raise UserError(f"{name} reads '{PROBE}' as '{back}': its vocabulary is not whole, or not its own")
