"""Images drawn from the prior itself, by DDIM."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from harness.guidance.prior import Guidance
from harness.guidance.views import view_prompt


@torch.no_grad()
def sample(
    guidance: Guidance, prompts: Sequence[str], view: str, noise_NCHW: Tensor, steps: int = 50
) -> Tensor:
    """One image per prompt and row of noise, float32 [N,3,H,W] in [0, 1]; Song et al. 2021, η = 0."""
    ddim = DDIMScheduler(
        trained_betas=_betas(guidance.alphas_cumprod_T), clip_sample=False, set_alpha_to_one=False
    )
    ddim.set_timesteps(steps)
    cond_NLD = guidance.embed([view_prompt(guidance.cfg.view_prompt, prompt, view) for prompt in prompts])
    z_NCHW = noise_NCHW.to(guidance.device)
    for t in ddim.timesteps:
        empty, full = guidance.predict_noise(z_NCHW, t.expand(len(z_NCHW)), cond_NLD)
        eps_NCHW = guidance.cfg_noise(empty, full)
        z_NCHW = ddim.step(eps_NCHW, int(t), z_NCHW).prev_sample  # type: ignore[union-attr,arg-type]
    return guidance.decode(z_NCHW)


def _betas(alphas_cumprod_T: Tensor) -> np.ndarray:
    """β_t of a noise schedule given as ᾱ_t."""
    abar_T = alphas_cumprod_T.double().numpy()
    return 1 - abar_T / np.concatenate([[1.0], abar_T[:-1]])
