"""Every option that is a path: ~ is the home folder, and what cannot be written to is told at once."""

import typing
from pathlib import Path
from typing import Annotated, Any

import pytest

from harness.cli import app
from harness.cli.app import (
    expanded,
    file_out,
    folder_out,
    profile_app,
    prompts_app,
    scenes_in,
    slurm_app,
    study_app,
    toyworld_app,
)
from harness.config import UserError
from harness.distill import method
from harness.sweep.grid import read_suite

APPS = (app, profile_app, prompts_app, slurm_app, study_app, toyworld_app)


def paths() -> list[tuple[str, str, Any]]:
    """(command, parameter, what Typer is told of it) of every parameter that is a path."""
    found = []
    for each in APPS:
        for command in each.registered_commands:
            assert command.callback
            for name, annotation in typing.get_type_hints(command.callback, include_extras=True).items():
                parts = typing.get_args(annotation) if typing.get_origin(annotation) is Annotated else ()
                if parts and "Path" in str(parts[0]):
                    found.append((command.name or command.callback.__name__, name, parts[1]))
    return found


@pytest.mark.parametrize(("command", "name", "info"), paths(), ids=lambda value: str(value)[:20])
def test_every_path_is_expanded_and_places_for_results_are_checked(command: str, name: str, info: Any):
    assert info.callback in (expanded, folder_out, file_out, scenes_in)
    if name in ("out", "work", "directory") and command != "doctor":  # which checks the disk itself
        assert info.callback in (folder_out, file_out)


def call(*arguments: str) -> str:
    """What a command refuses with."""
    with pytest.raises(UserError) as told:
        app(list(arguments), standalone_mode=False)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    app(["new-method", "my_sds", "--dir=~/mine"], standalone_mode=False)
    app(["methods", "--methods-dir=~/mine"], standalone_mode=False)
    assert str(tmp_path / "scenes") in call("scenes", "--scenes-dir=~/scenes")
    said = capsys.readouterr().out
    written, _, command = said.splitlines()[0].partition("; try it: harness ")
    assert written == f"{tmp_path}/mine/my_sds written"
    assert command == f"sweep smoke --methods my_sds --steps 50 --methods-dir {tmp_path}/mine"
    read_suite(command.split()[1])
    assert "my_sds  " in said and (tmp_path / "mine" / "my_sds" / "method.py").is_file()
    assert str(tmp_path / "runs") in call("status", "~/runs")
    assert str(tmp_path / "s.txt") in call("sweep", "~/s.txt", "--out=~/x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
    assert "nobody_here" in call("status", "~nobody_here/runs")


def test_a_method_that_was_written_elsewhere_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    built_in = tmp_path / "checkout" / "methods"
    (built_in / "other").mkdir(parents=True)
    (built_in.parent / "pyproject.toml").touch()
    monkeypatch.setattr(method, "BUILT_IN", built_in)
    for name, where, far in (("one", tmp_path, True), ("two", built_in.parent, False)):
        monkeypatch.chdir(where)
        app(["new-method", name], standalone_mode=False)
        said = capsys.readouterr().out
        assert said.startswith(f"{built_in / name} written") and "--methods-dir" not in said
        assert ("in the checkout" in said) == far


WRITERS = [
    ["sweep", "prompts/smoke.txt", "--out"],
    ["eval", ".", "--out"],
    ["tables", ".", "--out"],
    ["figures", ".", "--out"],
    ["report", ".", "--out"],
    ["reproduce", "fig6", "--out"],
    ["reproduce", "fig6", "--runs"],
    ["import", ".", "--suite", "prompts/smoke.txt", "--out"],
    ["make-prior", "--like", "sd14", "--random", "--out"],
    ["new-method", "my_sds", "--dir"],
    ["toyworld", "train", "--work"],
    ["study", "new", ".", "--a", "x", "--b", "y", "--out"],
    ["study", "results", ".", "--out"],
]
FILES = [
    ["export", ".", "--out"],
    ["study", "export", ".", "--out"],
    ["toyworld", "show", "a red bus", "--out"],
    ["prompts", "import-dreamfields", "prompts/smoke.txt", "--out"],
]


@pytest.mark.parametrize("command", [*WRITERS, *FILES], ids=" ".join)
def test_a_place_that_cannot_be_written_to_is_one_line(command: list[str], tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    places = {
        tmp_path / "file": "is a file, no folder",
        tmp_path / "file" / "below": "is a file, no folder",
        tmp_path / "link": "is a link to nothing, no folder",
        Path("/proc/nowhere"): "cannot write to /proc",
        Path("/dev/null"): "/dev/null is",
        tmp_path / ("x" * 300): "File name too long",
    }
    for place, says in places.items():
        if command in FILES and place.parent == tmp_path and place.name in ("file", "link"):
            place, says = place / "a.csv", says
        told = call(*command, str(place))
        assert told.startswith(f"{command[-1]} {place}: ") or "too long" in told
        assert says in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]
