"""The worked examples of docs/extending.md, as they stand: one file each, from the sweep to the report."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.records.folder import run_folders
from harness.sweep.grid import read_suite
from harness.toyworld import grammar

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
BLOCKS = re.compile(r"^```\w+\n# (\S+/\S+)\n(.*?)^```$", re.S | re.M)
METHODS = ("ease", "contrast", "debias", "contrast@ease:power=3")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder with the examples, each where its first line says."""
    for name, text in BLOCKS.findall(PAGE.read_text()):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def harness(where: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *arguments], capture_output=True, text=True, cwd=where
    )
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout


def test_the_suite_is_one_that_the_default_prior_knows(written: Path) -> None:
    suite = read_suite(written / "prompts" / "cups.txt")
    assert suite.name == "cups" and len([grammar.parse(prompt) for prompt in suite.prompts]) == 3


@pytest.mark.journey
def test_what_is_added_is_found_swept_measured_and_reported(written: Path, tiny_prior: Path) -> None:
    given = sorted(str(path.relative_to(written)) for path in written.rglob("*.*") if path.is_file())
    assert len(given) == 8, given
    scenes, metrics = ("--scenes-dir", "scenes"), ("--metrics-dir", "metrics")
    listed = harness(written, "methods", "--methods-dir", "methods")
    assert all(name in listed for name in ("ease", "contrast", "debias", "tp_sds"))
    assert "lattice" in harness(written, "scenes", *scenes)
    assert "sharpness" in harness(written, "metrics", *metrics)
    harness(
        written, "sweep", "prompts/cups.txt", "--limit", "1", "--methods", ",".join(METHODS), *scenes,
        "--methods-dir", "methods", "--preset", "presets/quick.toml", "--prior", str(tiny_prior),
        "--set", "scene.resolution=8", "--set", "scene.kind=lattice", "--set", "scene.lattice.side=10",
        "--wandb", "disabled",
    )  # fmt: skip
    folders = {folder.spec().label: folder for folder in run_folders(written / "runs")}
    assert set(folders) == set(METHODS)
    assert {folder.status() for folder in folders.values()} == {"done"}
    rows = {label: folder.metrics()[-1] for label, folder in folders.items()}
    assert rows["contrast"]["contrast"] > 0 and rows["ease"]["t"] == 20
    assert {label: row["nfe"] for label, row in rows.items()} == dict.fromkeys(METHODS, 12)
    spec = folders["ease"].spec()
    assert (spec.config.scene.own, spec.config.scene.own_set) == ({"side": 10}, ("side",))
    harness(written, "tables", "runs", "sharpness", *metrics, *scenes)
    with (written / "runs" / "eval" / "tables" / "sharpness.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["method"] for line in lines] == sorted(METHODS)
    assert all(float(line["sharpness"]) > 0 for line in lines)
    figures = ("--figures-dir", "figures")
    harness(written, "figures", "runs", "sharpness_bars", *figures, "--prior-samples", "0")
    about = json.loads((written / "runs" / "eval" / "figures" / "sharpness_bars.json").read_text())
    assert len(about["runs"]) == len(METHODS)
    harness(written, "report", "runs", *metrics, *scenes)
    pages = (path for path in (written / "runs" / "eval" / "report").rglob("*.js"))
    assert any('"sharpness' in path.read_text() for path in pages)
