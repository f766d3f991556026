"""The report's files: the command that makes a run again, pictures that are kept, what a page is told."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient
from typer.main import get_command

from eval.command import open_runs
from eval.metrics.r_precision import RPrecision
from eval.report import write
from eval.report.command import config_changes, sweep_command
from eval.report.index import ROWS, Suites, key, record, script
from eval.report.live import HOST, application, watch
from eval.report.pages import PAGES
from eval.report.pictures import FRAME_MS, make, turn
from eval.report.results import results, truth
from eval.report.write import write_report
from eval.sources.load import load_runs
from harness.cli import app
from harness.config import UserError, apply_overrides
from harness.presets import names, preset
from harness.records.folder import RunFolder
from harness.records.identity import run_id
from harness.sweep.grid import write_suite
from harness.sweep.request import Request, parse_steps
from tests.eval.conftest import PROMPTS, Sweep, picture

SETTINGS = {
    "guidance.prior": st.text("abz./- 019\"'{}é,", min_size=1),
    "guidance.revision": st.none() | st.text("abc019 ", min_size=1),
    "guidance.cfg_scale": st.floats(0, 200),
    "guidance.t_range": st.sampled_from([(0.02, 0.98), (0.1, 0.5)]),
    "scene.background_rgb": st.tuples(*[st.floats(0, 1)] * 3),
    "scene.samples": st.integers(2, 900),
    "camera.elevation": st.tuples(st.floats(-90, 0), st.floats(0, 90)),
    "optim.lr": st.floats(1e-9, 1),
    "views.heldout_elevation": st.none() | st.floats(-90, 90),
    "steps": st.integers(1, 20_000),
}


@given(st.sampled_from(names()), st.fixed_dictionaries({}, optional=SETTINGS))
def test_a_configuration_is_told_by_what_differs_from_its_preset(name, changes) -> None:
    config = apply_overrides(preset(name), [f"{k}={json.dumps(v)}" for k, v in changes.items()])
    again = apply_overrides(preset(name), [*config_changes(config), f"steps={config.steps}"])
    assert again == config
    assert len(config_changes(config)) <= len(changes)


def asked_for(line: str, folder: Path) -> list[str]:
    """The ids of the runs that the command line asks for, read as `harness` reads it."""
    program, name, *words = shlex.split(line)
    assert (program, name) == ("harness", "sweep")
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    given = command.make_context(name, words).params
    request = Request(
        prompts=folder / given["prompts"],
        methods=given["methods"],
        seeds=given["seeds"],
        steps=parse_steps(given["steps"]),
        limit=given["limit"],
        preset=given["preset"],
        settings=tuple(given["settings"]),
    )
    return [run_id(spec) for spec in request.resolve()[1]]


@pytest.mark.parametrize(
    ("methods", "settings"),
    [
        ("uniform_sds", ()),
        ("tp_sds:iclr", ("guidance.cfg_scale=31.5",)),
        ("tp_sds:iclr:m=250.123456789", ("views.heldout_elevation=none", "scene.background_rgb=.1,.2,.3")),
        ("tp_sds:prior=gaussian:m=300", ("tp_sds.s=99", "guidance.view_prompt={view} of {prompt}")),
    ],
)
def test_the_command_of_a_run_asks_for_that_run(methods: str, settings: tuple[str, ...], tmp_path) -> None:
    suite_file = tmp_path / "two words.txt"
    suite_file.write_text("a red car\na blue cup\na green chair\n")
    request = Request(suite_file, methods, "3", (150,), settings=settings)
    suite, specs = request.resolve()
    write_suite(tmp_path / "runs", suite)
    folder = RunFolder.create(tmp_path / "runs", specs[1])
    runs, _ = load_runs(tmp_path / "runs")
    suites = Suites(tmp_path / "runs", runs)
    for sha, name in suites.files.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("\n".join(suites.prompts[sha]))
    ids = asked_for(suites.command(runs[0], runs[0].folder.spec()), tmp_path)
    assert folder.id in ids and len(ids) == 2, "the prompt's own run, and those of the prompts before it"
    alone = sweep_command(specs[1], suites.files[suite.sha256], None)
    assert "--limit" not in alone and folder.id in asked_for(alone, tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_a_script_of_data_holds_the_data_and_no_markup(value) -> None:
    text = script("x", value).decode()
    assert text.isascii() and text.startswith('data["x"]=') and text.endswith(";\n")
    assert json.loads(text.removeprefix('data["x"]=').removesuffix(";\n")) == value


def test_what_json_cannot_say_is_null() -> None:
    assert script("x", [float("nan"), float("inf"), 1.5]) == b'data["x"]=[null,null,1.5];\n'


@given(st.text(min_size=1))
def test_a_runs_key_is_safe_in_addresses_and_file_names(name: str) -> None:
    made = key(name)
    assert made.isascii() and not set(made) & set("/\\?#%&\"'<> :") and not made.startswith(".")
    assert key(name) == made and key("tp_sds-a-cup-s0-d317b10f") == "tp_sds-a-cup-s0-d317b10f"


def report(runs: Sweep, clip_folder: Path, out: Path) -> Path:
    study = open_runs(runs.root, clip=str(clip_folder), device="cpu", samples=0)
    return write_report(runs.root, out, lambda: results(study))


def stored(path: Path) -> dict:
    return json.loads(path.read_text().partition("=")[2].removesuffix(";\n"))


def test_pictures_of_unchanged_runs_are_kept_and_of_lost_ones_removed(
    runs: Sweep, clip_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    assert report(runs, clip_folder, out) == out / "index.html"
    times = {path: path.stat().st_mtime_ns for path in out.glob("media/*/*")}
    changed, lost, *_ = load_runs(runs.root)[0]
    assert len(times) == 12 * 4
    os.utime(changed.folder.views_path(20), ns=(1, 1))
    for path in sorted(lost.path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    lost.path.rmdir()
    report(runs, clip_folder, out)
    now = {path: path.stat().st_mtime_ns for path in out.glob("media/*/*")}
    assert {path.parent.name for path in times.keys() - now.keys()} == {lost.run_id}
    assert {path.parent.name for path in now if now[path] != times[path]} == {changed.run_id}
    assert not (out / "data" / "run" / f"{lost.run_id}.js").exists()
    assert {path.name for path in out.glob("*.html")} == set(PAGES)


def test_pictures_come_first_and_ground_truth_beside_them(
    runs: Sweep, clip_folder: Path, tmp_path: Path
) -> None:
    study = open_runs(
        runs.root,
        clip=str(clip_folder),
        device="cpu",
        samples=0,
        ground_truth=lambda prompt, views: picture(prompt, 7, views.tiles),
    )
    rings = truth(study)
    assert set(rings) == set(study.prompts) and {len(ring) for ring in rings.values()} == {4}
    out, found = tmp_path / "report", []
    for ring_VHWC in (rings[PROMPTS[0]], rings[PROMPTS[1]][:1]):
        given = {PROMPTS[0]: ring_VHWC}
        write_report(runs.root, out, lambda: {"notes": []}, truth=lambda: given)  # noqa: B023
        found.append(stored(out / "data" / "results.js")["truth"][PROMPTS[0]])
        with Image.open(out / "media" / found[-1]["key"] / "thumb.webp") as thumb:
            assert thumb.size == (16, 16)
    assert [each.get("turn") for each in found] == [1, None]
    assert [path.name for path in out.glob("media/truth-*")] == [found[1]["key"]], "the other is no more"
    page = (out / "index.html").read_text()
    assert page.index('id="gallery"') < page.index('id="numbers"') < page.index('id="curves"')


def test_a_damaged_picture_is_missing_and_all_others_are_there(
    runs: Sweep, clip_folder: Path, tmp_path: Path
) -> None:
    broken = load_runs(runs.root)[0][0]
    broken.folder.views_path(20).write_bytes(b"no picture")
    report(runs, clip_folder, tmp_path / "report")
    entries = {run["id"]: run for run in stored(tmp_path / "report" / "data" / "runs.js")["runs"]}
    assert "thumb" not in entries[broken.run_id]
    assert sum("thumb" in entry for entry in entries.values()) == 11
    with Image.open(tmp_path / "report" / "media" / broken.run_id / "film.webp") as film:
        assert film.size == (5 * 16, 2 * 16)
        assert film.convert("RGB").getpixel((8, 24)) == pytest.approx((128, 128, 128), abs=3), "left grey"
    scores = stored(tmp_path / "report" / "data" / "results.js")["scores"]
    assert "views of step 20" in scores[broken.run_id]["problem"]


def test_the_numbers_are_those_of_the_tables(runs: Sweep, clip_folder: Path, tmp_path: Path) -> None:
    runs.add("tp_sds", PROMPTS[3], 0, end="failed")
    runs.add("tp_sds", PROMPTS[3], 1, end="new")
    report(runs, clip_folder, tmp_path / "report")
    found = stored(tmp_path / "report" / "data" / "results.js")
    study = open_runs(runs.root, clip=str(clip_folder), device="cpu", samples=0)
    measures = [measure["name"] for measure in found["measures"]]
    final = study.of(RPrecision).frame.set_index("run")
    assert set(found["scores"]) == set(final.index) and len(final) == 13
    for run, scores in found["scores"].items():
        assert scores["values"][measures.index("per_view")] == pytest.approx(final.at[run, "per_view"], 1e-3)
    [line] = [line for line in found["curves"][0]["lines"] if line["method"] == "uniform_sds"]
    assert line["x"] == [10, 20] and line["mean"] == pytest.approx([0, 5 / 6], abs=1e-3)
    assert line["low"][1] <= line["mean"][1] <= line["high"][1]
    told = stored(tmp_path / "report" / "data" / "runs.js")
    status = {run["id"]: run["status"] for run in told["runs"]}
    assert sorted(status.values()) == ["done"] * 12 + ["failed", "waiting"]
    assert told["mark"] == "toy" and "1 unfinished runs are left out" in found["notes"]


def test_a_folder_without_an_ended_run_has_pages_and_no_numbers(tmp_path: Path) -> None:
    runs = Sweep(tmp_path / "runs")
    runs.add("tp_sds", PROMPTS[0], 0, end="new")

    def never() -> None:
        raise AssertionError("there is nothing to compute")

    write_report(runs.root, tmp_path / "report", never)  # type: ignore[arg-type]
    assert "no run has ended yet" in stored(tmp_path / "report" / "data" / "results.js")["notes"][0]


def test_a_folder_that_holds_something_else_is_left_alone(runs: Sweep, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")
    with pytest.raises(UserError, match="something else"):
        write_report(runs.root, tmp_path / "mine", dict)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["index.html"]


def test_a_rendered_turntable_is_taken_and_else_the_ring_turns(runs: Sweep, tmp_path: Path) -> None:
    with_one, without, *_ = load_runs(runs.root)[0]
    (with_one.path / "turntable").mkdir()
    frames = [Image.new("RGB", (24, 24), (shade, 0, 0)) for shade in (0, 120, 250)]
    rendered = with_one.path / "turntable" / "colour.webp"
    frames[0].save(rendered, save_all=True, append_images=frames[1:])
    assert make(with_one, tmp_path / "a").turn == "turntable"
    assert (tmp_path / "a" / "turn.webp").read_bytes() == rendered.read_bytes()
    assert make(without, tmp_path / "b").turn == "ring"
    with Image.open(tmp_path / "b" / "turn.webp") as ring:
        assert (ring.n_frames, ring.size) == (4, (16, 16))  # type: ignore[attr-defined]
        ring.load()
        assert ring.info["duration"] == FRAME_MS
    assert turn(without, 11) is None, "no views of that step"


def test_a_long_log_of_values_is_thinned_evenly(runs: Sweep) -> None:
    run = load_runs(runs.root)[0][0]
    run.folder.append_metrics([{"step": 20 + k, "loss": 1 / (k + 3)} for k in range(3 * ROWS)])
    told = record(run, Suites(runs.root, [run]), None)
    steps = told["metrics"]["step"]
    assert told["rows"] == 3 * ROWS + 2 and len(steps) == ROWS
    assert steps[0] == 10 and steps[-1] == 19 + 3 * ROWS
    gaps = [b - a for a, b in pairwise(steps[2:])]
    assert set(gaps) <= {2, 3, 4}


def test_the_live_pages_need_neither_torch_nor_a_study() -> None:
    code = "import sys, eval.report.live; print(*{'torch', 'eval.runs', 'open_clip'} & sys.modules.keys())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == ""


def test_a_report_that_was_interrupted_is_taken_up_again(
    runs: Sweep, clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "report"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(write, "record", interrupt)
        report(runs, clip_folder, out)
    assert not (out / "index.html").exists()
    assert report(runs, clip_folder, out).is_file()


def test_live_ground_truth_is_the_last_reports(runs: Sweep) -> None:
    given = {PROMPTS[0]: picture(PROMPTS[0], 7, 4)}
    out = runs.root / "eval" / "report"
    write_report(runs.root, out, lambda: {"notes": []}, truth=lambda: given)
    name = stored(out / "data" / "results.js")["truth"][PROMPTS[0]]["key"]
    with TestClient(application(runs.root, "token"), f"http://{HOST}") as client:
        client.get("/?token=token")
        for kind in ("thumb", "turn"):
            path = f"media/{name}/{kind}.webp"
            assert client.get(f"/{path}").content == (out / path).read_bytes()
        assert client.get(f"/media/{name}/made.json").status_code == 404
        assert client.get(f"/media/{name[:-1]}x/thumb.webp").status_code == 404


def test_live_a_port_that_is_taken_is_told(runs: Sweep) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UserError, match="--port 0"):
            watch(runs.root, other.getsockname()[1], open_browser=False)
