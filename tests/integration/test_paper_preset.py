"""The paper's settings from the command line to the table, with Stable Diffusion at toy width."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from harness.records.folder import run_folders

SMALLER = (
    "scene.resolution=8", "scene.samples=8", "scene.levels=4", "scene.log2_hashmap=10",
    "guidance.dtype=float32", "views.count=2",
)  # fmt: skip


def harness(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.journey
def test_the_smoke_suite_runs_with_the_paper_preset_on_a_folder_of_random_weights(tmp_path: Path) -> None:
    prior, runs = tmp_path / "sd14", tmp_path / "runs"
    harness("make-prior", "--like", "sd14", "--random", "--size", "tiny", "--out", str(prior))
    settings = [word for setting in SMALLER for word in ("--set", setting)]
    said = harness(
        "sweep", "prompts/smoke.txt", "--limit", "2", "--preset", "paper", "--prior", str(prior),
        "--methods", "uniform_sds,linear_decay,tp_sds", "--steps", "4", "--wandb", "disabled",
        "--out", str(runs), *settings,
    )  # fmt: skip
    assert said.splitlines()[-1].startswith("6 done")
    for folder in run_folders(runs):
        config, steps = folder.spec().config, folder.view_steps()
        assert (config.preset, config.guidance.weighting, steps) == ("paper", "one", [2, 4])
        views_VHWC = folder.views(4)
        assert views_VHWC.shape == (config.views.tiles, 32, 32, 3) and views_VHWC.std() > 0
    table = harness("eval", str(runs), "--clip", "toy-clip")
    assert "RANDOM WEIGHTS" in table and all(name in table for name in ("linear_decay", "tp_sds"))
    manifest = json.loads((runs / "eval" / "manifest.json").read_text())
    assert manifest["stamp"] == "RANDOM WEIGHTS" and len(manifest["runs"]) == 6
    assert Image.open(runs / "eval" / "contact_sheet.png").width > 100
