from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

from eval.figures.curves import CURVES
from eval.figures.grids import wrapped
from eval.figures.kinds.schedules import SCHEDULES, T_MAX, T_MIN, logged
from eval.figures.looks import KNOWN, OTHERS, looks
from eval.figures.style import COLUMN, PAGE, Sheet
from eval.figures.write import FIGURES, write_figures
from eval.metrics import gradients
from eval.metrics.gradients import Gradients
from eval.preference.duels import wilson
from eval.runs import Runs
from eval.tables.made import make_tables
from eval.tables.table import Number
from harness.config import UserError, ViewsConfig, apply_overrides
from harness.distill.method import NoiseSchedule, load_method
from harness.distill.schedules import sd_alphas_cumprod
from harness.records.folder import RunFolder
from tests.eval.conftest import PROMPTS, TOY, Sweep, picture

ROOT = Path(__file__).parents[2]
LABELS = st.sets(st.sampled_from([*KNOWN, *(f"method_{k}:m={k}" for k in range(9))]), min_size=1, max_size=12)


def ground_truth(prompt: str, views: ViewsConfig) -> np.ndarray:
    return picture(prompt, 7, views.tiles)


def open_runs(root: Path, clip_folder: Path, truth: bool = True) -> Runs:
    render = ground_truth if truth else None
    study = Runs(root, clip=str(clip_folder), device="cpu", ground_truth=render, samples=0)
    rows = [
        (run.run_id, study.labels[run.run_id], run.prompt, run.seed, run.total, step, t, step + t, 1.0)
        for run in study
        for step in (10, 20)
        for t in (20, 500, 980)
    ]
    columns = ["run", "method", "prompt", "seed", "total", "step", "t", "mean", "variance"]
    # What a diffusion prior would say of kept parameters, which these runs do not have.
    study.of(Gradients).frame = pd.DataFrame(rows, columns=columns)
    return study


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, three prompts, two seeds; uniform_sds is wrong at first, and one of its runs failed."""
    runs = Sweep(tmp_path_factory.mktemp("figures") / "runs")
    for prompt in PROMPTS[:3]:
        for seed in (0, 1):
            runs.add("tp_sds", prompt, seed)
            failed = (prompt, seed) == (PROMPTS[0], 1)
            shows = [PROMPTS[4], prompt]
            runs.add("uniform_sds", prompt, seed, shows=shows, end="failed" if failed else "done")
    runs.timed(tp_sds=[0.2, 0.21, 0.19], uniform_sds=[0.1, 0.1, 0.1], nfe={"tp_sds": 4})
    return runs.root


@pytest.fixture(scope="module")
def study(root: Path, clip_folder: Path) -> Runs:
    return open_runs(root, clip_folder)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory, clip_folder: Path) -> Runs:
    """Sweep with their own N: 10 and 20 steps."""
    runs = Sweep(tmp_path_factory.mktemp("totals") / "runs")
    for total in (10, 20):
        config = TOY.model_copy(update={"steps": total})
        for method in ("tp_sds", "uniform_sds"):
            for prompt in PROMPTS[:2]:
                shows = PROMPTS[5] if total == 10 and method == "uniform_sds" else prompt
                runs.add(method, prompt, 0, config=config, shows=shows)
    runs.timed()
    return open_runs(runs.root, clip_folder, truth=False)


def texts(sheet: Sheet) -> str:
    return "\n".join(text.get_text() for text in sheet.findobj(Text))


def images(sheet: Sheet) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for axes in sheet.axes for image in axes.get_images()]


def line(sheet: Sheet, method: str, panel: int = 0) -> tuple[np.ndarray, np.ndarray]:
    colour = KNOWN[method].colour
    found = [
        one for one in sheet.axes[panel].lines if one.get_color() == colour and one.get_marker() != "None"
    ]
    return np.asarray(found[0].get_xdata()), np.asarray(found[0].get_ydata())


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_figure_is_written_and_the_same_without_caches(
    root: Path, study: Runs, clip_folder: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    paths = write_figures(study, [], tmp_path / "a", "harness figures runs", told.append)
    assert told == []
    assert [path.name for path in paths] == [
        f"{name}.{end}" for name in FIGURES if FIGURES[name].is_usual for end in ("pdf", "png", "json")
    ]
    first = files(tmp_path / "a")
    assert set(first) == {path.name for path in paths}
    for cache in root.glob("*/eval"):
        shutil.rmtree(cache)
    write_figures(open_runs(root, clip_folder), [], tmp_path / "b", "harness figures runs")
    again = files(tmp_path / "b")
    assert [name for name in first if first[name] != again[name]] == []
    for name, data in first.items():
        if name.endswith("pdf"):
            assert b"/FontFile2" in data and b"/Type3" not in data and b"CreationDate" not in data, name
        if name.endswith("png"):
            assert set(Image.open(tmp_path / "a" / name).info) == {"dpi"}, name


def test_another_process_and_another_matplotlibrc_write_the_same_bytes(tmp_path: Path) -> None:
    write_figures(None, ["schedules"], tmp_path / "here", "x")
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 9\nfont.family: monospace\npdf.fonttype: 3\n")
    code = (
        "from pathlib import Path; from eval.figures.write import write_figures; "
        f"write_figures(None, ['schedules'], Path({str(tmp_path / 'there')!r}), 'x')"
    )
    changed = {"MATPLOTLIBRC": str(tmp_path), "PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | changed, check=True)
    assert files(tmp_path / "here") == files(tmp_path / "there")


def test_manifests_name_the_runs_that_were_shown(study: Runs, tmp_path: Path) -> None:
    write_figures(
        study, ["r_precision", "steps_grid", "cost", "diversity"], tmp_path, "harness figures runs …"
    )
    about = {path.stem: json.loads(path.read_bytes()) for path in tmp_path.glob("*.json")}
    everything = [run.run_id for run in study]
    assert about["r_precision"]["runs"] == everything
    assert about["cost"]["runs"] == everything
    alone = [run.run_id for run in study if run.method == "uniform_sds" and run.prompt == PROMPTS[0]]
    assert about["diversity"]["runs"] == [run_id for run_id in everything if run_id not in alone]
    shown = [run.run_id for run in study if run.prompt == PROMPTS[0] and run.seed == 0]
    assert about["steps_grid"]["runs"] == shown
    for data in about.values():
        assert data["command"] == "harness figures runs …"
        assert data["toy"] and data["stamp"].startswith("toy · ")
        assert data["packages"]["matplotlib"] and data["packages"]["numpy"]
        assert data["clip"] == {"tag": study.stamp.clip, "sha256": study.stamp.weights}
    versions = study.stamp.versions
    assert about["r_precision"]["metrics"] == {
        name: versions[name] for name in ("r_precision", "convergence")
    }


def test_the_curve_shows_the_scores_the_ceiling_and_chance(study: Runs) -> None:
    sheet = FIGURES["r_precision"].draw(study)
    for method, expected in {"tp_sds": [100, 100], "uniform_sds": [0, 250 / 3]}.items():
        x, y = line(sheet, method)
        assert list(x) == [10, 20] and y == pytest.approx(expected)
    references = {
        one.get_linestyle(): float(np.asarray(one.get_ydata())[0])
        for one in sheet.axes[0].lines
        if one.get_linestyle() in ("--", ":")
    }
    assert references == {"--": 100, ":": pytest.approx(100 / 6)}
    bands = {
        to_hex(np.asarray(one.get_facecolor())[0]).upper(): np.asarray(one.get_paths()[0].vertices)[:, 1]
        for one in sheet.axes[0].collections
    }
    three_of_three = wilson(3, 3)[0] * 100
    assert sorted(set(bands[KNOWN["tp_sds"].colour])) == pytest.approx([three_of_three, 100])
    # One prompt of three has one seed of two: 50, 100, 100.
    assert 100 * 5 / 6 < bands[KNOWN["uniform_sds"].colour].max() <= 100
    assert bands[KNOWN["uniform_sds"].colour].min() == 0
    assert "3 prompts × 2 seeds, 1 failed, pool 6" in sheet.caption


def test_differences_stand_beside_the_levels_as_in_the_table(study: Runs) -> None:
    sheet = FIGURES["differences"].draw(study)
    x, _ = line(sheet, "tp_sds", 0)
    assert list(x) == [100]
    [table], _ = make_tables(study, ["differences"])
    [row] = [row for row in table.rows if row[0] == "tp_sds"]
    assert isinstance(row[2], Number)
    x, y = line(sheet, "tp_sds", 1)
    assert list(x) == pytest.approx([100 * row[2].value]) and list(y) == [study.methods.index("tp_sds")]
    assert sheet.axes[1].get_title(loc="left") == "less uniform_sds"
    assert sheet.run_ids == [run.run_id for run in study]


def test_very_many_methods_get_a_panel_each_with_the_baseline(tmp_path: Path, clip_folder: Path) -> None:
    runs = Sweep(tmp_path / "runs")
    config = TOY.model_copy(update={"steps": 20})
    runs.add("uniform_sds", PROMPTS[0], 0, config=config)
    for t in range(100, 900, 50):
        fixed = {"params": {"t": t}, "params_set": ("t",), "variant": f"t={t}"}
        runs.add("uniform_sds", PROMPTS[0], 0, config=config, **fixed)
    found = open_runs(runs.root, clip_folder, truth=False)
    assert len(found.methods) > CURVES
    sheet = FIGURES["r_precision"].draw(found)
    shown = [axes for axes in sheet.axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in shown] == found.methods
    assert all(len(axes.lines) == 2 for axes in shown)


def test_curves_that_coincide_are_each_seen(tmp_path: Path, clip_folder: Path) -> None:
    runs = Sweep(tmp_path / "runs")
    shows = {"uniform_sds": None, "linear_decay": None, "tp_sds": PROMPTS[4]}
    for method, looks_ in shows.items():
        runs.add(method, PROMPTS[0], 0, shows=looks_, config=TOY.model_copy(update={"steps": 20}))
    sheet = FIGURES["r_precision"].draw(open_runs(runs.root, clip_folder))
    drawn = {
        method: next(
            one
            for one in sheet.axes[0].lines
            if one.get_color() == KNOWN[method].colour and one.get_marker() != "None"
        )
        for method in shows
    }
    assert list(line(sheet, "uniform_sds")[1]) == list(line(sheet, "linear_decay")[1])
    wide, narrow, other = (drawn[method].get_linewidth() for method in shows)
    assert wide > narrow == other


def test_wall_time_is_steps_times_the_measured_cost(study: Runs) -> None:
    sheet = FIGURES["r_precision_time"].draw(study)
    x, y = line(sheet, "uniform_sds")
    assert list(x) == pytest.approx([1, 2]) and y[-1] == pytest.approx(250 / 3)
    assert list(line(sheet, "tp_sds")[0]) == pytest.approx([2, 4]), "its steps take twice as long"
    assert "a machine, 2 threads" in sheet.caption
    cost = FIGURES["cost"].draw(study)
    bars: list[list[Any]] = [list(axes.patches) for axes in cost.axes[:3]]
    widths = [[bar.get_width() for bar in each] for each in bars]
    assert widths == [pytest.approx([100, 200]), pytest.approx([2, 4]), pytest.approx([40, 80])]
    assert "× 2.00" in texts(cost)


def test_runs_with_their_own_n_get_a_panel(several: Runs) -> None:
    sheet = FIGURES["r_precision"].draw(several)
    own, longest = line(sheet, "uniform_sds", 1), line(sheet, "uniform_sds", 0)
    assert own[0] == pytest.approx([10, 20], abs=0.2) and list(own[1]) == [0, 100]
    assert list(longest[0]) == [10, 20] and list(longest[1]) == [100, 100]
    assert sheet.run_ids == [run.run_id for run in several]
    grid = FIGURES["steps_grid"].draw(several)
    assert len(grid.run_ids) == 4 and len(images(grid)) == 4
    for name in ("methods_grid", "r_precision_time", "cost", "gradients"):
        chosen = FIGURES[name].draw(several).run_ids
        assert {run.total for run in several if run.run_id in chosen} == {20}, name


def test_methods_of_other_numbers_of_steps_show_their_own_last_one(tmp_path: Path, clip_folder: Path) -> None:
    runs = Sweep(tmp_path / "runs")
    for method, total in (("uniform_sds", 20), ("tp_sds", 20), ("vsd", 10)):
        for seed in (0, 1):
            runs.add(method, PROMPTS[0], seed, config=TOY.model_copy(update={"steps": total}))
    found = open_runs(runs.root, clip_folder, truth=False)
    for name in ("methods_grid", "seeds_grid"):
        sheet = FIGURES[name].draw(found)
        assert len(images(sheet)) == len(sheet.run_ids) == (3 if name == "methods_grid" else 6)
        assert "vsd, step 10" in texts(sheet).replace("\n", " ") and "no run" not in texts(sheet)
    table = make_tables(found, ["r_precision_steps"])[0][0]
    assert table.columns == ["step", "uniform_sds", "tp_sds"], "vsd has none of 20 steps"


def test_runs_evaluated_at_their_last_step_alone_have_no_curve_over_steps(
    tmp_path: Path, clip_folder: Path
) -> None:
    runs = Sweep(tmp_path / "runs")
    for total in (10, 20):
        config = TOY.model_copy(update={"steps": total, "views": TOY.views.model_copy(update={"count": 1})})
        for method in ("tp_sds", "uniform_sds"):
            for prompt in PROMPTS[:2]:
                runs.add(method, prompt, 0, config=config)
    found = open_runs(runs.root, clip_folder, truth=False)
    sheet = FIGURES["r_precision"].draw(found)
    assert [axes.get_title(loc="left") for axes in sheet.axes] == ["runs with their own N"]
    x, _ = line(sheet, "tp_sds")
    assert len(x) == 2
    [claims], _ = make_tables(found, ["claims"])
    said = {str(row[4]): str(row[5]) for row in claims.rows if row[3] == "tp_sds" and "35" in str(row[0])}
    assert (
        said["checkpoints of one run"]
        == "not tested by these runs: they were evaluated at their last step alone"
    )
    assert "not tested" not in said["runs with their own N"]
    with pytest.raises(UserError, match="evaluated at their last step alone"):
        make_tables(found, ["convergence"])
    assert {"r_precision", "own_n"} <= {table.name for table in make_tables(found)[0]}


def test_grids_show_the_stored_views_and_why_there_is_none(study: Runs, clip_folder: Path) -> None:
    by_key = {(study.labels[run.run_id], run.prompt, run.seed): run for run in study}
    second = {run.run_id for run in study if run.seed == 1}
    chosen = Runs(study.root, clip=str(clip_folder), device="cpu", samples=0, only=second)
    steps = FIGURES["steps_grid"].draw(chosen)
    run = by_key["tp_sds", PROMPTS[0], 1]
    shown = images(steps)
    assert len(shown) == 3, "the failed run left the views of its first step only"
    for step in (10, 20):
        assert any(np.array_equal(image, run.views(step)[0]) for image in shown)
    assert re.search(r"failed:\s+non-finite\s+gradient", texts(steps))
    seeds = FIGURES["seeds_grid"].draw(study)
    assert len(images(seeds)) == 3 and "failed" in texts(seeds)
    methods = FIGURES["methods_grid"].draw(study)
    pair = by_key["uniform_sds", PROMPTS[2], 0].views(20)[[0, 1]]
    assert len(images(methods)) == 9
    assert any(np.array_equal(image, np.concatenate(list(pair), axis=1)) for image in images(methods))
    assert "ground truth" in texts(methods) and PROMPTS[1] in texts(methods).replace("\n", " ")


def test_a_damaged_picture_is_told_in_its_place(runs: Sweep, clip_folder: Path) -> None:
    [victim] = runs.root.glob("tp_sds-a-red-cup-s0-*")
    (victim / "views" / "step_000020.png").write_bytes(b"\x89PNG broken")
    sheet = FIGURES["seeds_grid"].draw(open_runs(runs.root, clip_folder))
    assert "unreadable" in texts(sheet) and len(images(sheet)) == 3


def test_the_gradient_map_is_the_mean_over_runs(study: Runs) -> None:
    sheet = FIGURES["gradients"].draw(study)
    for axes in sheet.axes[:2]:
        [mesh] = axes.collections
        assert np.asarray(mesh.get_array()).ravel() == pytest.approx([30, 40, 510, 520, 990, 1000])


def test_a_gradient_map_has_its_own_runs_guidance(
    tmp_path: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = Sweep(tmp_path / "runs")
    for cfg in (7.5, 20):
        config = apply_overrides(TOY, [f"guidance.cfg_scale={cfg}"])
        sweep.add("uniform_sds", PROMPTS[0], 0, config=config, axes=("guidance.cfg_scale",))
    monkeypatch.setattr(RunFolder, "params_steps", lambda _: [10, 20])
    monkeypatch.setattr(gradients, "held", lambda guidance, *_, **__: guidance)
    cell = {"step": 10, "t": 20, "variance": 0.0}
    monkeypatch.setattr(gradients, "gradient_map", lambda _, guidance: [cell | {"mean": guidance.cfg_scale}])
    frame = Runs(sweep.root, clip=str(clip_folder), device="cpu", samples=0).of(Gradients).frame
    rows = dict(zip(frame["method"], frame["mean"], strict=True))
    assert rows == {"uniform_sds, cfg_scale 7.5": 7.5, "uniform_sds, cfg_scale 20": 20}


def test_what_the_runs_do_not_allow_is_skipped_unless_it_is_named(
    runs: Sweep, clip_folder: Path, tmp_path: Path
) -> None:
    for folder in runs.root.glob("*-s1-*"):
        shutil.rmtree(folder)
    study = Runs(runs.root, clip=str(clip_folder), device="cpu", samples=0)
    told: list[str] = []
    written = {path.stem for path in write_figures(study, [], tmp_path, "x", told.append)}
    missing = {"seeds_grid", "diversity", "gradients", "spectra", "r_precision_time", "cost"}
    assert written == {name for name in FIGURES if FIGURES[name].is_usual} - missing
    assert {text.split(":")[0].removeprefix("no figure ") for text in told} == missing
    assert not [text for text in told if "\n" in text]
    assert sum("harness bench methods RUNS" in text for text in told) == 2
    for name in missing:
        with pytest.raises(UserError, match=f"no figure {name}: "):
            write_figures(study, [name], tmp_path, "x")


def test_names_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no figure 'schedule'; did you mean 'schedules'"):
        write_figures(None, ["schedules", "schedule"], tmp_path / "out", "x")
    assert not (tmp_path / "out").exists()


def test_without_a_study_there_are_the_schedules(tmp_path: Path) -> None:
    told: list[str] = []
    paths = write_figures(None, [], tmp_path, "x", told.append)
    assert {path.stem for path in paths} == {"schedules"}
    usual = sum(figure.is_usual for figure in FIGURES.values())
    assert len(told) == usual - 1
    about = json.loads((tmp_path / "schedules.json").read_bytes())
    assert about["runs"] == [] and about["stamp"] is None and not about["toy"]
    with pytest.raises(UserError, match="no figure cost: needs methods timed side by side"):
        write_figures(None, ["cost"], tmp_path, "x")


def test_toy_studies_say_so_and_widths_are_a_papers(study: Runs) -> None:
    for name, figure in FIGURES.items():
        if not figure.is_usual:
            continue
        sheet = figure.draw(study)
        assert COLUMN <= round(sheet.get_figwidth(), 6) <= PAGE, name
        assert ("toy" in texts(sheet).splitlines()) == (name != "schedules"), name


@pytest.mark.parametrize("label", SCHEDULES)
def test_the_schedules_shown_are_the_methods(label: str) -> None:
    import torch

    name, _, preset = label.partition(":")
    method = load_method(name)
    alphas_T = torch.tensor(sd_alphas_cumprod())
    params = method.resolve({"preset": preset} if preset else {}, name)
    step, total = torch.arange(1, 401), torch.full((400,), 400)
    draws = torch.rand(400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    theirs = method(params, NoiseSchedule(alphas_T, T_MIN, T_MAX)).timesteps(step, total, draws)
    _, schedule = SCHEDULES[label].over(alphas_T.numpy())
    ours = schedule.timesteps(step.numpy(), total.numpy(), draws.numpy())
    # Drawn upwards by the one and downwards by the other, the same distribution.
    expected = T_MIN + T_MAX - theirs.numpy() if label == "uniform_sds" else theirs.numpy()
    assert np.array_equal(ours, expected)


@settings(deadline=None)
@given(LABELS)
def test_a_method_looks_the_same_whatever_stands_beside_it(labels: set[str]) -> None:
    found = looks(labels)
    assert {label: found[label] for label in labels & set(KNOWN)} == {
        k: KNOWN[k] for k in labels & set(KNOWN)
    }
    assert len(set(found.values())) == len(labels), "no two alike"
    assert looks(sorted(labels)) == found and looks(sorted(labels, reverse=True)) == found
    if "zzz" not in labels:
        assert {k: v for k, v in looks(labels | {"zzz"}).items() if k != "zzz"} == found


@settings(deadline=None)
@given(st.text(min_size=1, max_size=12))
def test_a_label_alone_has_a_look_of_its_own(label: str) -> None:
    assert looks([label])[label] == KNOWN.get(label, looks([label, label])[label])
    assert looks([label])[label] in [*KNOWN.values(), *OTHERS[:4]]


def test_more_labels_than_looks_still_get_one() -> None:
    many = [f"m{k}" for k in range(40)]
    assert set(looks(many)) == set(many)


@settings(deadline=None)
@given(st.text("ab_:, ", max_size=40), st.integers(3, 20))
def test_labels_break_where_they_may_and_lose_nothing(label: str, letters: int) -> None:
    lines = wrapped(label, letters)
    assert "".join("".join(lines).split()) == "".join(label.split())
    for line in lines:
        assert len(line) <= letters or not re.search(r"[_:,@\s](?=.)", line), line


def test_labels_break_at_the_variant_first() -> None:
    assert wrapped("tp_sds:snr_only", 11) == ["tp_sds:", "snr_only"]
    assert wrapped("linear_decay", 9) == ["linear_", "decay"]
    assert wrapped("a red car", 20) == ["a red car"]


def test_schedules_of_ones_own_are_drawn_as_they_were_logged(tmp_path: Path, clip_folder: Path) -> None:
    sweep = Sweep(tmp_path / "runs")
    for method, t in (("mine", [900, 500, 100]), ("wild", [300, 900, 20]), ("uniform_sds", [1, 2, 3])):
        folder = sweep.add(method, PROMPTS[0], 0)
        folder.append_metrics([{"step": 6 * k, "time": 30.0, "t": each} for k, each in enumerate(t, 1)])
    runs = Runs(sweep.root, clip=str(clip_folder), device="cpu", samples=0)
    found = logged(runs)
    assert set(found) == {"mine", "wild"} and found["mine"][1].tolist() == [0.3, 0.6, 0.9]
    sheet = FIGURES["schedules"].draw(runs)
    labels = [text.get_text() for text in sheet.legends[0].get_texts()]
    assert {"mine: as logged", "wild: as logged"} <= set(labels)
    lines = [line for line in sheet.axes[1].get_lines() if np.array_equal(line.get_ydata(), [900, 500, 100])]
    assert len(lines) == 1 and lines[0].get_linestyle() != "None"
    assert len(sheet.run_ids) == 2
