"""Installed from a wheel: it adds one name, and nothing of a user's own eval, slurm or methods is run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def pip(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments],
        check=True,
        capture_output=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, installed without its dependencies into a folder of its own."""
    base = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "-w", str(base), str(ROOT))
    (wheel,) = base.glob("*.whl")
    pip("install", "--no-deps", "--target", str(base / "site"), str(wheel))
    return base / "site"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with the user's own things of our parts' names, which say that they were imported."""
    folder = tmp_path / "theirs"
    code = f"open({str(tmp_path / 'imported')!r}, 'a').write(__name__)\n"
    for name in ("slurm", "methods", "experiments", "prompts"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(code)
    (folder / "eval.py").write_text(code)
    return folder


@pytest.mark.journey
def test_it_adds_one_name_and_imports_nothing_of_theirs(site: Path, hostile: Path, tmp_path: Path) -> None:
    added = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert added == {"harness", "bin"}

    def harness(*arguments: str) -> str:
        paths = os.pathsep.join([str(hostile), str(site)])
        done = subprocess.run(
            [sys.executable, str(site / "bin" / "harness"), *arguments],
            cwd=hostile,
            env=os.environ | {"PYTHONPATH": paths},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (arguments, done.stderr)
        return done.stdout

    assert "tp_sds" in harness("methods") and "fig8" not in harness("search")
    assert "coco" in harness("prompts", "list")
    out = str(tmp_path / "runs")
    harness(
        "sweep", "coco", "--limit", "1", "--methods", "tp_sds,csd@tp_sds", "--steps", "3", "--out", out,
        "--set", "views.count=1", "--wandb", "disabled", "--device", "cpu",
    )  # fmt: skip
    harness("eval", out)
    assert (tmp_path / "runs" / "eval" / "table.csv").is_file()
    assert not (tmp_path / "imported").exists()
