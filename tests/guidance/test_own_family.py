"""A family of priors is one file: latent consistency models, from a folder outside the checkout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from harness.config import GuidanceConfig, UserError
from harness.guidance.family import FOLDERS, architectures, families, family_of
from harness.guidance.prior import Guidance
from harness.guidance.random_prior import make_prior
from harness.records.folder import run_folders

FILE = '''
"""Latent consistency models (Luo et al. 2023): SD's parts, and a UNet that is told a guidance scale."""

from harness.guidance.architectures import Part
from harness.guidance.checks import UNET_INPUTS
from harness.guidance.families.stable_diffusion import ARCHITECTURES, StableDiffusion

LIKE = ARCHITECTURES["sd14"]
UNET = LIKE.parts["unet"]
PARTS = {
    **LIKE.parts,
    "unet": Part(UNET.kind, {**UNET.full, "time_cond_proj_dim": 256}, {**UNET.tiny, "time_cond_proj_dim": 8}),
    "scheduler": Part("diffusers.LCMScheduler", {"prediction_type": "epsilon"}),
}


class LatentConsistency(StableDiffusion):
    """The scale that it is told is 0: its sine and cosine are 0 and 1."""

    pipeline = "LatentConsistencyModelPipeline"
    inputs = {**UNET_INPUTS, "time_cond_proj_dim": (8, 256)}
    architectures = {"lcm": type(LIKE)("SimianLuo/LCM_Dreamshaper_v7", PARTS, LIKE.tokenizers)}

    def denoise(self, x, t, cond):
        half = self.denoiser.config["time_cond_proj_dim"] // 2
        scale = cond.new_tensor([0.0] * half + [1.0] * half).expand(len(x), -1)
        return self.denoiser(x, t, encoder_hidden_states=cond, timestep_cond=scale).sample
'''


@pytest.fixture
def more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the one file, and the environment that names it."""
    folder = tmp_path / "families"
    folder.mkdir()
    (folder / "latent_consistency.py").write_text(FILE)
    monkeypatch.setenv(FOLDERS, str(folder))
    return folder


def test_a_family_is_one_file(more: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "lcm" in architectures()
    prior = make_prior(tmp_path / "lcm", "lcm", size="tiny", dtype="float32")
    config = GuidanceConfig(prior=str(prior), microbatch=4)
    g = Guidance.load(config, local_files_only=True)
    x_RCHW = torch.randn(2, *g.latent_shape, generator=torch.Generator().manual_seed(0))
    t_R, cond_RLD = torch.tensor([20, 700]), g.embed(["a red mug", "a bus"])
    scale_RW = torch.tensor([0.0] * 4 + [1.0] * 4).expand(2, -1)
    expected = g.family.denoiser(x_RCHW, t_R, cond_RLD, timestep_cond=scale_RW).sample
    assert_close(g.predict_noise(x_RCHW, t_R, cond_RLD)[1], expected)
    assert not torch.equal(expected, g.family.denoiser(x_RCHW, t_R, cond_RLD).sample)

    monkeypatch.delenv(FOLDERS)
    with pytest.raises(UserError, match=r"'LatentConsistencyModelPipeline' is not supported; choose a prior"):
        Guidance.load(config, local_files_only=True)


def test_a_sweep_and_its_workers_have_it(more: Path, tmp_path: Path) -> None:
    prior = make_prior(tmp_path / "lcm", "lcm", size="tiny", dtype="float32")
    command = [sys.executable, "-m", "harness.cli", "sweep", "prompts/smoke.txt", "--limit", "1"]
    command += ["--methods", "uniform_sds", "--prior", str(prior), "--steps", "1", "--wandb", "disabled"]
    command += ["--out", str(tmp_path / "runs"), "--set", "scene.resolution=8", "--set", "scene.samples=4"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {FOLDERS: str(more)})
    assert done.returncode == 0, done.stderr
    (run,) = run_folders(tmp_path / "runs")
    assert run.view_steps() == [1] and json.loads((run.path / "env.json").read_text())["prior"]["stamp"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "families directory"),
        ("", "holds no"),
        ("x = 1", "defines 0 subclasses of Family"),
        ("import nowhere", "cannot be imported"),
        (FILE.replace("LatentConsistencyModelPipeline", "IFPipeline"), "two families read IFPipeline"),
    ],
)
def test_what_is_no_family_is_told_in_one_line(
    text: str | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDERS, str(tmp_path / "families"))
    if text is not None:
        (tmp_path / "families").mkdir()
    if text:
        (tmp_path / "families" / "mine.py").write_text(text)
    with pytest.raises(UserError) as caught:
        families()
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_every_family_reads_its_own_folders() -> None:
    assert {family_of({"_class_name": name}).pipeline for name in families()} == set(families())
