"""SD 3 (Esser et al. 2024): a flow, a transformer, two CLIPs and a T5 that may lack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from harness.guidance import architectures as of
from harness.guidance import checks
from harness.guidance.family import LEAST_ALPHA, Family, Parts, with_pooled

if TYPE_CHECKING:
    import torch
    from torch import Tensor


ARCHITECTURES = {
    "sd3": of.Architecture(
        source="stabilityai/stable-diffusion-3-medium-diffusers",
        parts={
            "transformer": of.Part(
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
            "vae": of.autoencoder(
                sample_size=1024,
                latent_channels=16,
                scaling_factor=1.5305,
                shift_factor=0.0609,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
            "text_encoder": of.Part(of.PROJECTED, of.CLIP_L, of.TINY_CLIP),
            "text_encoder_2": of.Part(of.PROJECTED, of.CLIP_G, of.TINY_CLIP),
            "text_encoder_3": of.T5_XXL,
            "scheduler": of.Part(
                "diffusers.FlowMatchEulerDiscreteScheduler", {"num_train_timesteps": 1000, "shift": 3.0}
            ),
        },
        tokenizers={"tokenizer": "clip", "tokenizer_2": "clip!", "tokenizer_3": "t5"},
        absent=("feature_extractor", "image_encoder"),
    ),
}


class StableDiffusion3(Family):
    """SD 3 (Esser et al. 2024), a flow: x_σ = (1−σ)·x + σ·ε, and the denoiser predicts v = ε − x.

    Divided by n = √((1−σ)² + σ²) it is a noise schedule like the others', with ᾱ = (1−σ)²/n²; and
    ε = x_σ + (1−σ)·v. t counts the scheduler's own σ from the smallest. The condition's last row is the
    pooled embedding, padded with zeros; without its T5, which folders may lack, that part is zeros.
    """

    pipeline = "StableDiffusion3Pipeline"
    models: ClassVar = {
        "transformer": "diffusers.SD3Transformer2DModel",
        "vae": of.KL,
        "text_encoder": of.PROJECTED,
        "text_encoder_2": of.PROJECTED,
        "text_encoder_3": of.T5,
    }
    tokenizers: ClassVar = {
        "tokenizer": of.CLIP_WORDS,
        "tokenizer_2": of.CLIP_WORDS,
        "tokenizer_3": of.T5_WORDS,
    }
    optional = ("text_encoder_3", "tokenizer_3")
    latents = ("scaling_factor", "shift_factor")
    inputs: ClassVar = {}
    text_tokens = 256  # trained with; the default
    architectures = ARCHITECTURES

    @classmethod
    def check_scheduler(cls, settings: Mapping[str, Any]) -> None:
        """A flow's."""
        checks.flow_scheduler(settings)

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
        import torch
        from torch.nn import functional

        first_LD, first_P = self._penultimate(prompt, "")
        second_LD, second_P = self._penultimate(prompt, "_2")
        width = int(self.denoiser.config["joint_attention_dim"])
        clip_LD = torch.cat([first_LD, second_LD], dim=1)
        clip_LD = functional.pad(clip_LD, (0, width - clip_LD.shape[1]))
        if "text_encoder_3" in self.parts.models:
            ids = self._tokens(prompt, "tokenizer_3", length=self.text_tokens)
            t5_LD = self.parts.models["text_encoder_3"](ids)[0][0].float()
        else:
            t5_LD = clip_LD.new_zeros(self.text_tokens, width)
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
