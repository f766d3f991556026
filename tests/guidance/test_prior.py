"""The denoiser: the same numbers as the diffusers pipeline, whatever the batch; and clear errors."""

import shutil
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from harness.config import GuidanceConfig, UserError
from harness.guidance.prior import Guidance
from harness.guidance.random_prior import make_prior
from harness.threads import torch_threads

PROMPTS = ["a red mug, side view", "a bus, front view", "Ein Café, back view"]


def guidance(folder: Path | str, dtype: str = "float32", microbatch: int = 8) -> Guidance:
    config = GuidanceConfig.model_validate({"prior": str(folder), "dtype": dtype, "microbatch": microbatch})
    return Guidance.load(config, local_files_only=True)


def inputs(prior: Guidance, runs: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_t = torch.randn(runs, *prior.latent_shape, generator=generator)
    t = torch.randint(20, 981, (runs,), generator=generator)
    return x_t, t, prior.embed([PROMPTS[r % len(PROMPTS)] for r in range(runs)])


def pipeline_noise(folder: Path, x_t: torch.Tensor, t: torch.Tensor, prompts: list[str]):
    """The pipeline's own prompt encoding and denoiser, (ε of nothing, ε of the prompt), or v."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None).to(torch.float32)
    with torch.no_grad():
        cond, uncond = pipe.encode_prompt(prompts, "cpu", 1, True)
        return [pipe.unet(x_t, t, encoder_hidden_states=context).sample for context in (uncond, cond)], pipe


@pytest.mark.parametrize("prior", ["tiny", "toy-sd"])
def test_equals_the_pipelines_own_prediction(prior: str, tiny_prior: Path) -> None:
    g = guidance(tiny_prior if prior == "tiny" else prior)
    x_t, t, cond = inputs(g, 3)
    (uncond_noise, cond_noise), _ = pipeline_noise(g.folder, x_t, t, PROMPTS)
    eps_u, eps_c = g.predict_noise(x_t, t, cond)
    assert_close(eps_u, uncond_noise, atol=1e-5, rtol=0)
    assert_close(eps_c, cond_noise, atol=1e-5, rtol=0)
    assert_close(g.cfg_noise(eps_u, eps_c), eps_u + 20 * (eps_c - eps_u), atol=0, rtol=0)


def test_v_prediction_becomes_noise(tmp_path: Path) -> None:
    folder = make_prior(tmp_path / "v", "sd21", size="tiny", dtype="float32")
    g = guidance(folder)
    x_t, t, cond = inputs(g, 2)
    (_, v), pipe = pipeline_noise(folder, x_t, t, PROMPTS[:2])
    _, eps = g.predict_noise(x_t, t, cond)
    for r in range(2):
        # DDIM's own inverse: from v to x0, and from x0 to the noise.
        x0 = pipe.scheduler.step(v[r], int(t[r]), x_t[r]).pred_original_sample if _set(pipe) else None
        assert x0 is not None
        alpha = g.alphas_cumprod_T[t[r]]
        assert_close(eps[r], (x_t[r] - alpha.sqrt() * x0) / (1 - alpha).sqrt(), atol=1e-4, rtol=1e-4)


def _set(pipe) -> bool:
    pipe.scheduler.set_timesteps(1000)
    return True


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_samples_bits_do_not_depend_on_its_batch(tiny_prior: Path, dtype: str, threads: int) -> None:
    with torch_threads(threads):
        g = guidance(tiny_prior, dtype)
        x_t, t, cond = inputs(g, 9)
        all_u, all_c = g.predict_noise(x_t, t, cond)
        for rows in ([0], [8], [5, 1], [3, 2, 7, 4, 0]):
            some_u, some_c = g.predict_noise(x_t[rows], t[rows], cond[rows])
            assert torch.equal(some_u, all_u[rows]) and torch.equal(some_c, all_c[rows])
        poisoned = x_t.clone()
        poisoned[4] = float("nan")
        bad_u, _ = g.predict_noise(poisoned, t, cond)
        others = [r for r in range(9) if r != 4]
        assert torch.equal(bad_u[others], all_u[others]) and bad_u[4].isnan().any()
        z = torch.randn(9, *g.latent_shape, generator=torch.Generator().manual_seed(1))
        assert torch.equal(g.decode(z)[[6]], g.decode(z[[6]]))


def test_the_presets_bits_do_not_depend_on_threads() -> None:
    """In float32 an operation's last bits depend on how it is split; three slices, the last one padded."""
    g = Guidance.load(GuidanceConfig(), local_files_only=True)
    x_t, t, cond = inputs(g, 9)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(torch.cat(g.predict_noise(x_t, t, cond)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_noise_schedule_and_latents(tiny_prior: Path) -> None:
    g = guidance(tiny_prior)
    assert g.latent_shape == (4, 8, 8) and g.image_size == 32 and g.t_range == (20, 980)
    x, eps = torch.randn(2, 2, *g.latent_shape).unbind()
    t = torch.tensor([0, 999])
    alpha = g.alphas_cumprod_T[t][:, None, None, None]
    assert_close(g.add_noise(x, eps, t), alpha.sqrt() * x + (1 - alpha).sqrt() * eps)
    assert_close(g.alphas_cumprod_T[0], torch.tensor(1 - 0.00085))
    images = g.decode(x)
    assert images.shape == (2, 3, 32, 32) and images.min() >= 0 and images.max() <= 1
    assert g.encode(images).shape == x.shape


def test_embeddings_are_kept(tiny_prior: Path) -> None:
    g = guidance(tiny_prior)
    first = g.embed(PROMPTS)
    assert torch.equal(first[1], g.embed([PROMPTS[1]])[0]) and len(g._embeddings) == len(PROMPTS)
    with pytest.warns(UserWarning, match="longer than the prior's 24 tokens"):
        g.embed(["a very long caption that goes on and on"])


def test_incomplete_and_missing_priors_are_one_clear_error(tiny_prior: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    shutil.copytree(tiny_prior, part)
    weights = part / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"incomplete \(unet/diffusion_pytorch_model.safetensors missing"):
        guidance(part)
    with pytest.raises(UserError, match="no embedded prior, no folder, no Hub id"):
        guidance("toy-sdd")
    with pytest.raises(UserError, match="harness doctor --fetch --prior nobody/no-such-model") as caught:
        guidance("nobody/no-such-model")
    assert "\n" not in str(caught.value)


def test_the_hash_follows_the_weights(tiny_prior: Path, tmp_path: Path) -> None:
    other = make_prior(tmp_path / "other", "sd14", size="tiny", dtype="float32", seed=1)
    same = make_prior(tmp_path / "same", "sd14", size="tiny", dtype="float32")
    assert guidance(tiny_prior).weights_hash == guidance(same).weights_hash != guidance(other).weights_hash


def test_a_perturbed_prior_is_another_by_so_much(tiny_prior: Path) -> None:
    plain = guidance(tiny_prior)
    given = inputs(plain, 2)
    weights = plain.family.denoiser.conv_out.weight
    clean, moved = plain.predict_noise(*given), []
    for share in (0.1, 0.3):
        config = plain.cfg.model_copy(update={"perturb": share})
        other, again = (Guidance.load(config, local_files_only=True) for _ in range(2))
        added = other.family.denoiser.conv_out.weight - weights
        assert added.std() / weights.std() == pytest.approx(share, rel=0.1)
        assert torch.equal(other.family.denoiser.conv_out.weight, again.family.denoiser.conv_out.weight)
        others = zip(
            other.family.denoiser.named_parameters(), plain.family.denoiser.named_parameters(), strict=True
        )
        assert [name for (name, mine), (_, theirs) in others if not torch.equal(mine, theirs)] == [
            "conv_out.weight"
        ]
        moved.append(float((other.predict_noise(*given)[1] - clean[1]).norm()))
    assert 0 < moved[0] < moved[1]
