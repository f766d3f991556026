"""Every family of priors: the pipeline's own prediction, and the SDS step that follows from it."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from harness.config import GuidanceConfig, UserError
from harness.distill.context import GradientContext
from harness.distill.method import NoiseSchedule, load_method
from harness.distill.schedules import signal_to_noise_weight
from harness.guidance import sampling
from harness.guidance.family import architectures
from harness.guidance.prior import Guidance
from harness.guidance.random_prior import make_prior
from harness.rng import Key
from harness.scene.cameras import make
from harness.scene.contract import View

PROMPT = "A red Mug, side view"
CFG = 7.5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("priors")
    return {like: make_prior(root / like, like, size="tiny", dtype="float32") for like in architectures()}


def load(folder: Path, **changes: Any) -> Guidance:
    config = {"prior": str(folder), "dtype": "float32", "microbatch": 4, "cfg_scale": CFG} | changes
    return Guidance.load(GuidanceConfig.model_validate(config), local_files_only=True)


def pipeline(folder: Path, **parts: None) -> Any:
    import diffusers

    index = json.loads((folder / "model_index.json").read_text())
    pipe = getattr(diffusers, index["_class_name"]).from_pretrained(folder, **parts)
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            torch.nn.Module.to(part, torch.float32)
    return pipe


@torch.no_grad()
def first_call(folder: Path, noise: Tensor) -> dict[str, Tensor]:
    """What the pipeline itself, run on `noise` with guidance, gave its scheduler first."""
    pipe = pipeline(folder)
    seen: dict[str, Tensor] = {}
    step = pipe.scheduler.step

    def watch(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **options: Any) -> Any:
        if not seen:
            sigma = pipe.scheduler.sigmas[0] if hasattr(pipe.scheduler, "sigmas") else torch.tensor(0.0)
            seen.update(output=model_output, t=torch.as_tensor(timestep), sample=sample, sigma=sigma)
        return step(model_output, timestep, sample, *args, **options)

    pipe.scheduler.step = watch
    options: dict[str, Any] = {"num_inference_steps": 10, "guidance_scale": CFG}
    if "IF" in type(pipe).__name__:
        # IF draws its noise itself: scaled by nothing, from the generator.
        pipe.prepare_intermediate_images = lambda *args, **kwargs: noise
    else:
        options |= {"latents": noise, "output_type": "latent"}
    if "3" in type(pipe).__name__:
        options["sigmas"] = [0.5, 0.25]  # as it was trained, before the scheduler shifts it
    pipe(PROMPT, **options)
    return seen


@pytest.mark.parametrize("like", architectures())
def test_one_call_is_the_pipelines_own(like: str, folders: dict[str, Path]) -> None:
    g = load(folders[like])
    noise = torch.randn(1, *g.latent_shape, generator=torch.Generator().manual_seed(1))
    seen = first_call(folders[like], noise)
    if like == "sd3":
        # x_σ to x_t, and the pipeline's v to noise, by the flow's own definition.
        t, sigma = torch.tensor(499), seen["sigma"]
        assert float(sigma) == 0.75
        x_t = seen["sample"] / ((1 - sigma) ** 2 + sigma**2) ** 0.5
        expected = seen["sample"] + (1 - sigma) * seen["output"]
    elif like == "sdxl":
        # Euler's sample is in the scale 1/√ᾱ.
        t = seen["t"].long()
        x_t, expected = seen["sample"] / (seen["sigma"] ** 2 + 1) ** 0.5, seen["output"]
    else:
        t, x_t, expected = seen["t"].long(), seen["sample"], seen["output"][:, : g.latent_shape[0]]
    eps = g.cfg_noise(*g.predict_noise(x_t, t[None], g.embed([PROMPT])))
    if like == "sd21":
        alpha = g.alphas_cumprod_T[t]
        expected = alpha.sqrt() * expected + (1 - alpha).sqrt() * x_t
    assert_close(eps, expected, atol=2e-5, rtol=0)


@torch.no_grad()
def reference(pipe: Any, like: str, x: Tensor, noise: Tensor, t: int) -> Tensor:
    """ε̂ − ε at x, straight from the pipeline's modules and the model's published equations; one prompt."""
    scheduler = pipe.scheduler
    if like == "sd3":
        sigma = scheduler.sigmas.flip(0)[t]
        x_t = (1 - sigma) * x + sigma * noise
        cond, none, pooled, pooled_none = pipe.encode_prompt(PROMPT, None, None)
        outs = [
            pipe.transformer(x_t, context, extra, 1000 * sigma[None]).sample
            for context, extra in ((none, pooled_none), (cond, pooled))
        ]
        v = outs[0] + CFG * (outs[1] - outs[0])
        return (x_t + (1 - sigma) * v) - noise
    alpha = scheduler.alphas_cumprod[t]
    x_t = alpha.sqrt() * x + (1 - alpha).sqrt() * noise
    if like == "sdxl":
        cond, none, pooled, pooled_none = pipe.encode_prompt(PROMPT)
        side = pipe.unet.config.sample_size * pipe.vae_scale_factor
        ids = torch.tensor([[side, side, 0, 0, side, side]], dtype=torch.float32)
        added = [{"text_embeds": each, "time_ids": ids} for each in (pooled_none, pooled)]
    elif like == "if-i":
        cond, none = pipe.encode_prompt(PROMPT)
        added = [None, None]
    else:
        cond, none = pipe.encode_prompt(PROMPT, "cpu", 1, True)
        added = [None, None]
    outs = [
        pipe.unet(x_t, t, encoder_hidden_states=context, added_cond_kwargs=extra).sample[:, : x.shape[1]]
        for context, extra in zip((none, cond), added, strict=True)
    ]
    out = outs[0] + CFG * (outs[1] - outs[0])
    return (alpha.sqrt() * out + (1 - alpha).sqrt() * x_t if like == "sd21" else out) - noise


@pytest.mark.parametrize("like", architectures())
@pytest.mark.parametrize("weighting", ["sds", "fantasia"])
def test_an_sds_gradient_is_the_reference_implementations(
    like: str, weighting: str, folders: dict[str, Path]
) -> None:
    g, pipe = load(folders[like]), pipeline(folders[like])
    x = torch.randn(3, *g.latent_shape, generator=torch.Generator().manual_seed(2))
    t = torch.tensor([20, 500, 980])
    keys = tuple(Key("A red Mug", seed) for seed in range(3))
    method = load_method("uniform_sds")
    sds = method(method.resolve({}), NoiseSchedule(g.alphas_cumprod_T, *g.t_range), weighting)
    ones = torch.ones(3, dtype=torch.int64)
    ctx = GradientContext(g, keys, ones, ones, t, View(x), make(*[[0.0] * 3] * 4), ["side"] * 3)
    found, noise = sds.gradient(ctx), ctx.noise_RCHW
    for r in range(3):
        if like == "sd3":  # the flow's own ᾱ, by the signal-to-noise ratio
            sigma = float(pipe.scheduler.sigmas.flip(0)[t[r]])
            alpha = (1 - sigma) ** 2 / ((1 - sigma) ** 2 + sigma**2)
        else:
            alpha = float(pipe.scheduler.alphas_cumprod[t[r]])
        w = 1 - alpha if weighting == "sds" else alpha**0.5 * (1 - alpha)
        gap = reference(pipe, like, x[r : r + 1], noise[r : r + 1], int(t[r]))[0]
        assert_close(found[r], w * gap, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("like", architectures())
def test_pictures_and_samples(like: str, folders: dict[str, Path]) -> None:
    g, pipe = load(folders[like]), pipeline(folders[like])
    z = torch.randn(2, *g.latent_shape, generator=torch.Generator().manual_seed(3))
    if like == "if-i":
        assert g.image_size == 16 and g.latent_shape == (3, 16, 16)
        assert_close(g.decode(z), (z / 2 + 0.5).clamp(0, 1))
        assert_close(g.decode(g.encode(g.decode(z))), g.decode(z))
    else:
        config = pipe.vae.config
        with torch.no_grad():
            images = pipe.vae.decode(z / config.scaling_factor + (config.shift_factor or 0)).sample
        assert_close(g.decode(z), (images / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=0)
        assert g.encode(g.decode(z)).shape == z.shape
    assert g.flat_code((0.5, 0.5, 0.5)).shape == g.latent_shape[:1]
    assert sampling.sample(g, ["a cup", "a bus"], "front", z, steps=3).isfinite().all()


@pytest.mark.parametrize("like", ["sdxl", "if-i", "sd3"])
def test_a_samples_bits_do_not_depend_on_its_batch(like: str, folders: dict[str, Path]) -> None:
    g = load(folders[like], dtype="bfloat16")
    generator = torch.Generator().manual_seed(4)
    x_t, t = torch.randn(5, *g.latent_shape, generator=generator), torch.tensor([20, 300, 500, 700, 980])
    cond = g.embed(["a cup", "a bus", PROMPT, "a car", "a cup"])
    every = g.predict_noise(x_t, t, cond)
    for rows in ([0], [4, 2], [3, 1, 0]):
        some = g.predict_noise(x_t[rows], t[rows], cond[rows])
        assert all(torch.equal(a, b[rows]) for a, b in zip(some, every, strict=True))
    assert all(each.isfinite().all() for each in every)


def test_no_prompt_is_zeros_where_sdxls_folder_says_so(folders: dict[str, Path], tmp_path: Path) -> None:
    assert not load(folders["sdxl"]).embed([""]).any()
    other = Path(shutil.copytree(folders["sdxl"], tmp_path / "other"))
    index = json.loads((other / "model_index.json").read_text()) | {"force_zeros_for_empty_prompt": False}
    (other / "model_index.json").write_text(json.dumps(index))
    g, pipe = load(other), pipeline(other)
    _, none, _, pooled_none = pipe.encode_prompt(PROMPT)
    cond = g.embed([""])
    assert_close(cond[:, :-1], none)
    assert_close(cond[:, -1, : pooled_none.shape[1]], pooled_none)


def test_sd3_without_its_t5(folders: dict[str, Path], tmp_path: Path) -> None:
    small = Path(shutil.copytree(folders["sd3"], tmp_path / "small"))
    for part in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(small / part)
    with pytest.raises(UserError, match=r"text_encoder_3/config\.json"):
        load(small)
    index = json.loads((small / "model_index.json").read_text())
    index |= {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    (small / "model_index.json").write_text(json.dumps(index))
    cond, _, pooled, _ = pipeline(small, text_encoder_3=None, tokenizer_3=None).encode_prompt(
        PROMPT, None, None
    )
    found = load(small).embed([PROMPT])
    assert_close(found[:, :-1], cond)
    assert_close(found[:, -1, : pooled.shape[1]], pooled)


@pytest.mark.parametrize("like", architectures())
def test_every_schedule_is_finite_on_every_noise_schedule(like: str, folders: dict[str, Path]) -> None:
    g = load(folders[like])
    alphas = g.alphas_cumprod_T
    assert (alphas > 0).all() and (alphas.diff() < 0).all() and alphas.dtype == torch.float32
    weights = signal_to_noise_weight(alphas.numpy())
    assert np.isfinite(weights).all()
    if like == "sd3":  # W_d is σ/(1−σ)
        sigma = pipeline(folders[like]).scheduler.sigmas.flip(0).double().numpy()
        assert_close(weights[1:-1], sigma[1:-1] / (1 - sigma[1:-1]), rtol=2e-3, atol=0)
    method = load_method("tp_sds")
    step = torch.arange(1, 101)
    for preset in (None, *method.presets):
        for t_range in (g.t_range, (0, len(alphas) - 1)):
            noise = NoiseSchedule(alphas, *t_range)
            params = method.resolve({"preset": preset} if preset else {})
            t = method(params, noise).timesteps(step, torch.full_like(step, 100), torch.zeros(100))
            assert t_range[0] <= t.min() and t.max() <= t_range[1]


def test_shards_are_one_prior_and_a_missing_one_is_told(folders: dict[str, Path], tmp_path: Path) -> None:
    whole, folder = folders["if-i"], Path(shutil.copytree(folders["if-i"], tmp_path / "sharded"))
    pipe = pipeline(whole)
    for part, size in (("unet", "200KB"), ("text_encoder", "60KB")):
        shutil.rmtree(folder / part)
        getattr(pipe, part).save_pretrained(folder / part, max_shard_size=size)
        assert len(list((folder / part).glob("*-of-*.safetensors"))) > 1
    one, other = load(whole), load(folder)
    assert torch.equal(one.embed([PROMPT]), other.embed([PROMPT])) and one.weights_hash != other.weights_hash
    next((folder / "text_encoder").glob("*-of-*.safetensors")).unlink()
    with pytest.raises(UserError, match=r"incomplete \(text_encoder/model-\d+-of-\d+\.safetensors missing"):
        load(folder)


@pytest.mark.skipif(find_spec("sentencepiece") is not None, reason="sentencepiece is installed")
def test_a_t5_tokenizer_that_cannot_be_read_is_told(folders: dict[str, Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(folders["if-i"], tmp_path / "other"))
    (other / "tokenizer" / "tokenizer.json").rename(other / "tokenizer" / "spiece.model")
    with pytest.raises(UserError, match="pip install sentencepiece"):
        load(other)


def test_an_unknown_pipeline_is_one_clear_error(folders: dict[str, Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(folders["sd14"], tmp_path / "other"))
    index = json.loads((other / "model_index.json").read_text()) | {"_class_name": "FluxPipeline"}
    (other / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="'FluxPipeline' is not supported; choose a prior of IFPipeline"):
        load(other)
    (other / "model_index.json").write_text("{")
    with pytest.raises(UserError, match=r"incomplete \(model_index.json missing"):
        load(other)
