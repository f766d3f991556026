"""What is told of a method is what its folder says, and docs/methods.md is made of the folders."""

import shutil
from pathlib import Path

import pytest

from harness.cli import app
from harness.config import UserError
from harness.distill.catalogue import about, page
from harness.distill.method import discover, load_method

ROOT = Path(__file__).parents[2]


def test_the_page_is_made_of_the_folders() -> None:
    made = page(results=ROOT / "docs" / "results")
    command = "harness methods --page --results docs/results > docs/methods.md"
    assert (ROOT / "docs" / "methods.md").read_text() == made, command
    assert "see its README" not in made
    for name, folder in discover().items():
        assert f"(../methods/{name}/README.md)" in made
        assert (folder.path / "README.md").is_file()


def test_a_method_tells_its_settings_presets_and_cost() -> None:
    told = about("tp_sds")
    assert told.startswith("# tp_sds") and "NFE: 2" in told and "m1=800.0" in told
    assert "tp_sds:iclr  prior=gaussian snr_weight=true" in told
    both = about("csd@tp_sds")
    assert "# csd" in both and "# tp_sds" in both
    assert all(f"{key}=" in both for key in load_method("csd").recommended)


def test_a_readme_is_read_as_every_text_that_people_write(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "methods" / "sjc", tmp_path / "mine")
    readme = tmp_path / "mine" / "README.md"
    readme.write_text("\ufeff# mine\n\n- **Timestep**: one.\n", encoding="utf-8")
    assert about("mine", [tmp_path]).startswith("# mine")
    assert "- **Timestep**: one." in page([tmp_path])
    readme.write_bytes("# weiß\n".encode("latin-1"))
    for told in (lambda: about("mine", [tmp_path]), lambda: page([tmp_path])):
        with pytest.raises(UserError, match=r"README.md is no UTF-8 text \(line 1\)"):
            told()


def test_results_that_hold_nothing_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tables of schedules-toy, distillations-toy"):
        page(results=tmp_path)
    with pytest.raises(UserError, match="--results goes with --page"):
        app(["methods", "--results", str(tmp_path)], standalone_mode=False)


@pytest.mark.parametrize("name", ["tp_sd", "csd@", "@csd", "csd@nothing", "a@b@c"])
def test_what_there_is_not_is_one_line(name: str) -> None:
    with pytest.raises(UserError):
        about(name)
