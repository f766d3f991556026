"""What of a prior's folder is used, known, and refused: before anything runs, from its files alone."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from harness.config import GuidanceConfig, UserError
from harness.doctor import _prior, pin, resolve
from harness.guidance import folder as folders
from harness.guidance.family import architectures
from harness.guidance.prior import Guidance
from harness.guidance.random_prior import make_prior
from harness.records.stamp import same_prior
from harness.sweep.request import Request

Change = Callable[[Path], Any]


@pytest.fixture(scope="module")
def folders_of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("priors")
    return {like: make_prior(root / like, like, size="tiny", dtype="float32") for like in architectures()}


def config(folder: Path | str) -> GuidanceConfig:
    return GuidanceConfig(prior=str(folder), dtype="float32")


def changed(folder: Path, to: Path, change: Change) -> Path:
    """A copy of a folder, changed."""
    shutil.copytree(folder, to)
    change(to)
    return to


def put(name: str, **settings: Any) -> Change:
    """Settings written into a JSON file of the folder; ... takes one out."""

    def change(folder: Path) -> None:
        kept = json.loads((folder / name).read_text()) | settings
        (folder / name).write_text(json.dumps({k: v for k, v in kept.items() if v is not ...}))

    return change


def emptied(part: str) -> Change:
    return lambda folder: [path.unlink() for path in (folder / part).iterdir()]


def torn(name: str) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:40])


def vocabulary(part: str, edit: Callable[[dict[str, Any]], Any]) -> Change:
    """The model in a tokenizer.json, edited."""

    def change(folder: Path) -> None:
        path = folder / part / "tokenizer.json"
        about = json.loads(path.read_text())
        edit(about["model"])
        path.write_text(json.dumps(about))

    return change


SCHEDULER, VAE, UNET = "scheduler/scheduler_config.json", "vae/config.json", "unet/config.json"
REFUSED: dict[str, tuple[str, Change, str]] = {
    "no tokenizer": (
        "sd14",
        emptied("tokenizer"),
        r"tokenizer/tokenizer_config\.json, tokenizer/tokenizer\.json",
    ),
    "no second tokenizer": ("sdxl", emptied("tokenizer_2"), r"incomplete \(tokenizer_2/"),
    "no third tokenizer": ("sd3", emptied("tokenizer_3"), r"incomplete \(tokenizer_3/"),
    "no T5 tokenizer": ("if-i", emptied("tokenizer"), r"incomplete \(tokenizer/"),
    "torn tokenizer": ("sd14", torn("tokenizer/tokenizer.json"), "tokenizer cannot be read"),
    "torn settings": ("sd14", torn(SCHEDULER), r"scheduler/scheduler_config\.json missing or cut short"),
    "torn part": ("sdxl", torn("text_encoder_2/config.json"), r"text_encoder_2/config\.json missing"),
    "no words": ("sd14", vocabulary("tokenizer", lambda m: m["vocab"].clear()), "has no vocabulary"),
    "too many words": (
        "sd14",
        vocabulary("tokenizer", lambda m: m["vocab"].update(mug=9000, mu=9001)),
        "tokenizer has 9002 tokens, and its text encoder embeds 514: they do not fit",
    ),
    "too many pieces": (
        "if-i",
        vocabulary("tokenizer", lambda m: m["vocab"].extend([[f"▁x{n}", -9.0] for n in range(600)])),
        "and its text encoder embeds 512: they do not fit",
    ),
    "lost merges": (
        "sd14",
        vocabulary("tokenizer", lambda m: m["vocab"].update({"mu": 100})),
        "1 tokens, such as 'mu', have no merge: merges are cut short",
    ),
    "another end": ("sdxl", put("text_encoder_2/config.json", eos_token_id=7), "pools at another token"),
    "an EDM scheduler": (
        "sd14",
        put(SCHEDULER, _class_name="EDMDPMSolverMultistepScheduler", sigma_min=0.002, sigma_max=80.0),
        "scheduler 'EDMDPMSolverMultistepScheduler' is not understood",
    ),
    "a flow for ε": (
        "sd14",
        put(SCHEDULER, _class_name="FlowMatchEulerDiscreteScheduler"),
        "is not understood",
    ),
    "ᾱ for a flow": ("sd3", put(SCHEDULER, _class_name="DDIMScheduler"), "is not understood as a flow"),
    "no class": ("sd14", put(SCHEDULER, _class_name=...), "scheduler 'None' is not understood"),
    "flow sigmas": ("sd14", put(SCHEDULER, use_flow_sigmas=True), "use_flow_sigmas = True is not supported"),
    "a predicted picture": ("sd14", put(SCHEDULER, prediction_type="sample"), "epsilon, v_prediction"),
    "sigmas": ("sdxl", put(SCHEDULER, sigma_min=0.002), "sigma_min = 0.002 is not supported"),
    "continuous t": ("sdxl", put(SCHEDULER, timestep_type="continuous"), "timestep_type = continuous"),
    "a shift that moves": ("sd3", put(SCHEDULER, use_dynamic_shifting=True), "use_dynamic_shifting = True"),
    "an unknown setting": (
        "sd14",
        put(SCHEDULER, beta_warp=2),
        "scheduler: the setting beta_warp = 2 is not",
    ),
    "rescaling that is not applied": (
        "sd14",
        put(SCHEDULER, rescale_betas_zero_snr=True),
        "PNDMScheduler does",
    ),
    "betas that rise too far": (
        "sd14",
        put(SCHEDULER, beta_end=3.0, beta_schedule="linear"),
        "no noise schedule",
    ),
    "too few betas": (
        "sd14",
        put(SCHEDULER, trained_betas=[0.1, 0.2]),
        "trained_betas must hold 1000 numbers",
    ),
    "no number of timesteps": (
        "sd14",
        put(SCHEDULER, num_train_timesteps="many"),
        "num_train_timesteps = many is no number",
    ),
    "a shifted code": ("sd14", put(VAE, shift_factor=0.1), "vae: shift_factor = 0.1 is not supported"),
    "means of a code": ("sd3", put(VAE, latents_mean=[0.1] * 16), "vae: latents_mean = "),
    "half of the means": ("sdxl", put(VAE, latents_mean=[0.1] * 4), "one of them is missing"),
    "short means": ("sdxl", put(VAE, latents_mean=[0.1], latents_std=[1.0]), "must hold 4 numbers"),
    "no scale": ("sd14", put(VAE, scaling_factor=0), "scaling_factor = 0 scales nothing"),
    "another autoencoder": ("sd14", put(VAE, _class_name="AutoencoderTiny"), "vae is a AutoencoderTiny"),
    "an unknown code": ("sd14", put(VAE, code_gamma=2), "vae: the setting code_gamma = 2 is not known"),
    "another text encoder": ("sd14", put("text_encoder/config.json", model_type="bert"), "of the type bert"),
    "another denoiser": (
        "sd14",
        put("model_index.json", unet=["diffusers", "UNet2DModel"]),
        "is a UNet2DModel",
    ),
    "inpainting": ("sd14", put(UNET, in_channels=9), "takes 9 channels and vae makes 4"),
    "a distilled denoiser": ("sd14", put(UNET, time_cond_proj_dim=256), "time_cond_proj_dim = 256 asks for"),
    "classes": ("sd14", put(UNET, num_class_embeds=10), "num_class_embeds = 10 asks for an input"),
    "an edit": ("sdxl", put("model_index.json", is_cosxl_edit=True), "is_cosxl_edit = True is not supported"),
    "an unknown switch": ("sdxl", put("model_index.json", requires_aesthetics_score=True), "is not known"),
    "an oblong": ("sd14", put(UNET, sample_size=[8, 16]), "is no side of a square"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_incomplete_or_not_understood_is_told_in_one_line(
    name: str, folders_of: dict[str, Path], tmp_path: Path
) -> None:
    like, change, reason = REFUSED[name]
    folder = changed(folders_of[like], tmp_path / "P", change)
    with pytest.raises(UserError) as caught:
        if name == "betas that rise too far":  # shows in ᾱ itself
            Guidance.load(config(folder), local_files_only=True)
        folders.find(config(folder))
    told = str(caught.value)
    assert re.search(reason, told) and "\n" not in told and told.startswith("prior "), told
    if name != "betas that rise too far":  # the doctor says the same, and a sweep before it begins
        assert _prior(resolve("toy", str(folder), [])).text == told
        with pytest.raises(UserError, match=re.escape(told[-60:])):
            pin(resolve("toy", str(folder), []))


def test_a_vocabulary_that_loads_and_does_not_tell_words_apart_is_refused(
    folders_of: dict[str, Path], tmp_path: Path
) -> None:
    def lose(model: dict[str, Any]) -> None:
        for token in ("r", "r</w>", "e", "e</w>", "d</w>"):
            del model["vocab"][token]

    folder = changed(folders_of["sd14"], tmp_path / "P", vocabulary("tokenizer", lose))
    with pytest.raises(UserError, match="tokenizer reads 'a red car on the left' as"):
        Guidance.load(config(folder), local_files_only=True)


def test_weights_that_a_loader_would_make_up_are_refused(folders_of: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    def lose(folder: Path) -> None:
        path = folder / "text_encoder" / "model.safetensors"
        tensors = load_file(path)
        del tensors[next(name for name in tensors if "final_layer_norm.weight" in name)]
        save_file(tensors, path, metadata={"format": "pt"})

    folder = changed(folders_of["sd14"], tmp_path / "P", lose)
    with pytest.raises(UserError, match=r"text_encoder lacks weights.*final_layer_norm"):
        Guidance.load(config(folder), local_files_only=True)


def test_pickled_weights_are_told_and_the_command_converts_them(
    folders_of: dict[str, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    def pickled(folder: Path) -> None:
        for path in [*folder.glob("*/*.safetensors")]:
            name = "pytorch_model.bin" if path.stem == "model" else "diffusion_pytorch_model.bin"
            torch.save(load_file(path), path.with_name(name))
            path.unlink()

    folder = changed(folders_of["sd14"], tmp_path / "P", pickled)
    with pytest.raises(
        UserError, match="pickled weights are not loaded, since a pickle may run code"
    ) as caught:
        folders.find(config(folder))
    told = str(caught.value)
    assert "unet/diffusion_pytorch_model.bin" in told and "text_encoder/pytorch_model.bin" in told
    code = told.partition('python -c "')[2].rstrip('"')
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)
    converted = folders.find(config(tmp_path / "P-safetensors"))
    assert converted.weights_hash == folders.find(config(folders_of["sd14"])).weights_hash


APPLIED: dict[str, tuple[str, dict[str, Any]]] = {
    "betas": ("sd14", {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}),
    "zero terminal SNR": ("sd21", {"rescale_betas_zero_snr": True}),
    "its own betas": (
        "sd14",
        {"trained_betas": [0.001 * (1 + n) for n in range(50)], "num_train_timesteps": 50},
    ),
    "fewer timesteps": ("sdxl", {"num_train_timesteps": 500}),
    "the class's own defaults": (
        "sd14",
        {
            "_class_name": "HeunDiscreteScheduler",
            "beta_start": ...,
            "beta_end": ...,
            "beta_schedule": "linear",
        },
    ),
}


@pytest.mark.parametrize("name", APPLIED)
def test_a_schedulers_settings_are_those_of_its_own_class(
    name: str, folders_of: dict[str, Path], tmp_path: Path
) -> None:
    import diffusers

    like, settings = APPLIED[name]
    folder = changed(folders_of[like], tmp_path / "P", put(SCHEDULER, **settings))
    written = json.loads((folder / SCHEDULER).read_text())
    expected = getattr(diffusers, written["_class_name"]).from_pretrained(folder / "scheduler").alphas_cumprod
    found = Guidance.load(config(folder), local_files_only=True).alphas_cumprod_T
    assert_close(found, torch.where(expected > 0, expected, 2.0**-24), atol=0, rtol=0)
    plain = Guidance.load(config(folders_of[like]), local_files_only=True).alphas_cumprod_T
    assert len(found) != len(plain) or not torch.equal(found, plain)


def test_means_and_deviations_of_sdxls_latents_are_applied_as_its_pipeline_does(
    folders_of: dict[str, Path], tmp_path: Path
) -> None:
    mean, std = [0.1, -0.2, 0.3, 0.0], [2.0, 3.0, 0.5, 1.0]
    folder = changed(folders_of["sdxl"], tmp_path / "P", put(VAE, latents_mean=mean, latents_std=std))
    g = Guidance.load(config(folder), local_files_only=True)
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    vae = g.family.parts.models["vae"]
    wide = torch.tensor(std)[None, :, None, None], torch.tensor(mean)[None, :, None, None]
    with torch.no_grad():
        codes = z * wide[0] / vae.config.scaling_factor + wide[1]
        assert_close(g.family.decode(z), vae.decode(codes).sample, atol=1e-5, rtol=0)
        images = torch.rand(1, 3, 32, 32) * 2 - 1
        code = vae.encode(images).latent_dist.mean
        assert_close(g.family.encode(images), (code - wide[1]) * vae.config.scaling_factor / wide[0])


def test_the_hash_is_of_everything_that_is_used_and_of_nothing_else(
    folders_of: dict[str, Path], tmp_path: Path
) -> None:
    before = folders.find(config(folders_of["sd14"]))
    same: dict[str, Change] = {
        "spelling": lambda f: (f / UNET).write_text(json.dumps(json.loads((f / UNET).read_text()), indent=7)),
        "versions": put(UNET, _diffusers_version="0.1", _name_or_path="/elsewhere"),
        "a readme": lambda f: (f / "tokenizer" / "README.md").write_text("hello"),
        "a preview": lambda f: (f / "picture.png").write_bytes(b"png"),
    }
    other: dict[str, Change] = {
        "scheduler": put(SCHEDULER, beta_end=0.013),
        "autoencoder": put(VAE, scaling_factor=0.2),
        "tokenizer": put("tokenizer/tokenizer_config.json", pad_token="!"),
        "denoiser": put(UNET, norm_eps=1e-4),
        "text encoder": put("text_encoder/config.json", hidden_act="gelu"),
        "index": put("model_index.json", requires_safety_checker=True),
    }
    for name, change in same.items():
        found = folders.find(config(changed(folders_of["sd14"], tmp_path / name, change)))
        assert found.content_hash == before.content_hash, name
    for name, change in other.items():
        found = folders.find(config(changed(folders_of["sd14"], tmp_path / name, change)))
        assert found.content_hash != before.content_hash and found.weights_hash == before.weights_hash, name
        assert not same_prior(found.record, before.record)
        old = {"tag": "sd14", "weights_hash": before.weights_hash}  # as records of old have it
        assert same_prior(old, found.record)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "suite.txt").write_text("a red car\n")
    return tmp_path / "suite.txt"


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Path]:
    before = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)


def test_one_folder_is_one_prior_however_it_is_spelled(
    folders_of: dict[str, Path], at: Path, suite: Path
) -> None:
    from harness.records.identity import run_id

    shutil.copytree(folders_of["sd14"], at / "P")
    (at / "link").symlink_to(at / "P")
    shutil.copytree(at / "P", at / "moved" / "P")
    put(SCHEDULER, beta_end=0.013)(Path(shutil.copytree(at / "P", at / "other" / "P")))

    def ids(prior: str) -> tuple[str, str]:
        _, (spec,) = Request(suite, methods="uniform_sds", settings=(f"guidance.prior={prior}",)).resolve()
        return run_id(spec), spec.config.guidance.prior

    found = {spelling: ids(spelling) for spelling in ("P", "P/", "./P", str(at / "P"), "link", "moved/../P")}
    assert len(set(found.values())) == 1 and found["P"][1] == str((at / "P").resolve())
    assert ids("moved/P")[0] == found["P"][0] != ids("other/P")[0]
    assert ids(str(folders.WEIGHTS / "toy-sd"))[1] == "toy-sd"
