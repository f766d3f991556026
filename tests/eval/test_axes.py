"""Settings that a sweep spans: in one folder, in rows that say so, and in a figure against them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import matplotlib
import pytest
from matplotlib.legend import Legend

from eval.command import open_runs
from eval.figures.looks import KNOWN
from eval.figures.style import NAMES, Choices, chosen, style
from eval.figures.write import FIGURES, write_figures
from eval.runs import Runs
from eval.tables import changes, convergence, differences
from eval.tables.table import Number
from harness.config import UserError, alternatives, apply_overrides
from harness.records.folder import RunFolder
from harness.records.identity import run_id
from harness.scene.kind import annotation_of
from harness.sweep.plan import make_plan
from harness.sweep.request import Request
from harness.sweep.status import sweep_status
from tests.eval.conftest import PROMPTS, TOY, Sweep

KEY = "guidance.cfg_scale"
SCALES = ("7.5", "20", "50")


@pytest.mark.parametrize(
    ("key", "text", "values"),
    [
        (KEY, "7.5, 20,50", ["7.5", "20", "50"]),
        (KEY, "7.5", ["7.5"]),
        ("guidance.weighting", "one,sds", ["one", "sds"]),
        ("optim.clip_norm", "none,0.5", ["none", "0.5"]),
        ("guidance.t_range", "0.02,0.5", ["0.02,0.5"]),
        ("guidance.t_range", "[0.02,0.5], (0.02, 0.98)", ["[0.02,0.5]", "(0.02, 0.98)"]),
        ("scene.background_rgb", "[1,1,1]", ["[1,1,1]"]),
        ("guidance.negative", "blurry, dark", ["blurry, dark"]),
        ("guidance.negative", '"blurry, dark","low"', ['"blurry, dark"', '"low"']),
        ("scene.volume.nothing", "1,2", ["1,2"]),
    ],
)
def test_a_comma_spans_an_axis_unless_it_is_the_values_own(key: str, text: str, values: list[str]) -> None:
    assert alternatives(text, annotation_of(key)) == values


def test_a_sweep_spans_every_combination_under_the_ids_of_single_ones(tmp_path: Path) -> None:
    suite = tmp_path / "suite.txt"
    suite.write_text("a red cup\na blue cup\n")

    def specs(*settings: str) -> list:
        request = Request(suite, methods="uniform_sds,tp_sds", settings=settings, limit=1)
        return request.resolve(lambda _: None)[1]

    many = specs(f"{KEY}={','.join(SCALES)}", "optim.lr=0.01,0.02", "tp_sds.m=100,200")
    assert len(many) == 3 * 2 * 3 == len({run_id(spec) for spec in many})
    assert {spec.axes for spec in many} == {(KEY, "optim.lr")}
    assert {spec.label for spec in many} == {"uniform_sds", "tp_sds:m=100", "tp_sds:m=200"}
    one = specs(f"{KEY}=7.5", "optim.lr=0.02")
    assert run_id(one[0]) in {run_id(spec) for spec in many}
    with pytest.raises(UserError, match=r"views\.azimuths=4,8: runs of other views are no axis"):
        specs("views.azimuths=4,8")
    with pytest.raises(UserError, match=r"cfg_scale=x: .*number"):
        specs(f"{KEY}=7.5,x")
    with pytest.raises(UserError, match="spans 1024 combinations"):
        specs(*[f"{KEY}={n},{n + 1}" for n in range(10)])

    root = tmp_path / "runs"
    folders = [RunFolder.create(root, spec) for spec in [*one, *specs(f"{KEY}=50", "optim.lr=0.02")]]
    spanned = specs(f"{KEY}=7.5,50", "optim.lr=0.02")
    plan = make_plan(root, spanned, 4)  # they were swept one by one; now it is an axis
    assert sorted(plan.unlabelled) == sorted(folder.id for folder in folders)
    for spec in spanned:
        RunFolder.create(root, spec)
    assert not make_plan(root, spanned, 4).unlabelled and {f.spec().axes for f in folders} == {(KEY,)}
    rows = [row.method for row in sweep_status(root).methods]
    assert rows == ["tp_sds, cfg_scale 7.5", "tp_sds, cfg_scale 50", "uniform_sds, cfg_scale 7.5",
                    "uniform_sds, cfg_scale 50"]  # fmt: skip


@pytest.fixture
def swept(tmp_path: Path) -> Sweep:
    """Two methods at three guidance scales; tp_sds wins at 7.5 and at 50 alone."""
    made = Sweep(tmp_path / "runs")
    for scale in SCALES:
        config = apply_overrides(TOY, [f"{KEY}={scale}"])
        for prompt in PROMPTS[:3]:
            right = scale != "20"
            made.add("uniform_sds", prompt, 0, config=config, axes=(KEY,), shows=PROMPTS[5 if right else 0])
            made.add("tp_sds", prompt, 0, config=config, axes=(KEY,))
    return made


def opened(runs: Sweep, clip_folder: Path, **options) -> Runs:
    return open_runs(runs.root, clip=str(clip_folder), device="cpu", samples=0, **options)


def test_rows_say_it_and_are_compared_at_equal_values(swept: Sweep, clip_folder: Path) -> None:
    study = opened(swept, clip_folder)
    uniform, tp = ([f"{name}, cfg_scale {scale}" for scale in SCALES] for name in ("uniform_sds", "tp_sds"))
    assert study.methods == [*uniform, *tp]
    table = differences.table(study)
    assert [row[0] for row in table.rows] == tp
    assert [row[4:7] for row in table.rows] == [[3, 0, 0], [2, 1, 0], [3, 0, 0]]
    ratios = {row[0]: str(row[2]) for row in convergence.table(study).rows}
    assert [ratios[name] for name in uniform] == ["1.00"] * 3 and ratios[tp[1]].startswith("0.33 [")
    p_values = {row[0]: row[7] for row in convergence.table(study).rows}
    assert str(p_values[uniform[0]]) == "–" and 0 < cast(Number, p_values[tp[0]]).value <= 1
    sheet = FIGURES["r_precision"].draw(study)
    assert [panel.get_title(loc="left") for panel in sheet.axes] == [f"cfg_scale {scale}" for scale in SCALES]
    colours = {KNOWN[name].colour for name in ("uniform_sds", "tp_sds")}
    for panel in sheet.axes:
        marked = [line for line in panel.get_lines() if line.get_marker() != "None"]
        assert {line.get_color() for line in marked} == colours and len(marked) == 2
    sheet = FIGURES["axes"].draw(study)
    (panel,) = sheet.axes
    assert [tick.get_text() for tick in panel.get_xticklabels()] == list(SCALES)
    assert panel.get_xscale() == "linear" and panel.get_xlabel() == "cfg_scale" and len(sheet.run_ids) == 18
    drawn = {bars.get_label(): bars for bars in panel.containers}
    (legend,) = [each for each in panel.get_children() if isinstance(each, Legend)]
    assert len(drawn) == 2 and [text.get_text() for text in legend.get_texts()] == ["uniform_sds", "tp_sds"]


def test_settings_changed_one_at_a_time_are_told_alone_and_held_against_the_usual_ones(
    tmp_path: Path, clip_folder: Path
) -> None:
    made, keys = Sweep(tmp_path / "runs"), (KEY, "optim.lr", "scene.kind")
    for settings in ((), (f"{KEY}=50",), ("optim.lr=0.05",)):
        config = apply_overrides(TOY, [f"{KEY}=20", "optim.lr=0.01", *settings])
        for number, prompt in enumerate(PROMPTS[:4]):
            wrong = settings == ("optim.lr=0.05",) and number < 3
            shows = PROMPTS[5] if wrong else prompt
            made.add("uniform_sds", prompt, 0, config=config, axes=keys, shows=shows)
    study = opened(made, clip_folder)
    assert study.methods == ["uniform_sds", "uniform_sds, lr 0.05", "uniform_sds, cfg_scale 50"]
    assert "What a row does not say: cfg_scale 20, lr 0.01" in study.notes
    assert [row.method for row in sweep_status(made.root).methods] == study.methods
    told = {row[0]: [getattr(cell, "value", cell) for cell in row[2:]] for row in changes.table(study).rows}
    assert told["uniform_sds, lr 0.05"][0] == told["uniform_sds, lr 0.05"][3] == -0.75
    assert told["uniform_sds, cfg_scale 50"][0] == 0 and len(told) == 2
    only = [run.run_id for run in study if run.config.optim.lr == 0.01]
    with pytest.raises(UserError, match="no settings were changed one at a time"):
        changes.table(opened(made, clip_folder, only=only))


def test_what_no_sweep_spanned_is_refused_as_ever(swept: Sweep, clip_folder: Path) -> None:
    other = apply_overrides(TOY, ["optim.lr=0.5"])
    swept.add("tp_sds", PROMPTS[0], 0, config=other)
    with pytest.raises(UserError, match=r"optim\.lr is 0\.01 and 0\.5 .*optim\.lr=0\.01, or pass --allow"):
        opened(swept, clip_folder)
    mixed = opened(swept, clip_folder, allow_mixed=True)
    assert all("@" in name for name in mixed.methods)
    only = [run.run_id for run in mixed if run.config.guidance.cfg_scale == 50]
    with pytest.raises(UserError, match="no setting was spanned"):
        FIGURES["axes"].draw(opened(swept, clip_folder, only=only))


def test_figures_are_drawn_as_asked(swept: Sweep, clip_folder: Path, tmp_path: Path) -> None:
    study = opened(swept, clip_folder)
    choices = Choices(width=5.0, font="DejaVu Serif", footnote=False, names=NAMES | {"tp_sds": "Ours $x$"})
    with chosen(choices), style():
        assert matplotlib.rcParams["font.family"][0] == "DejaVu Serif"
        sheet = FIGURES["r_precision"].draw(study)
    named = [text.get_text() for text in sheet.legends[0].get_texts()]
    assert named == ["SDS", "Ours $x$"]
    assert sheet.get_figwidth() == 5.0 and "pool" in sheet.caption
    assert not [text for text in sheet.texts if "pool" in text.get_text()]
    as_ever = FIGURES["r_precision"].draw(study)
    assert as_ever.get_figwidth() != 5.0 and [text for text in as_ever.texts if "pool" in text.get_text()]
    with pytest.raises(UserError, match=r"--font: 'DejaVu Serf' is not installed; did you mean 'DejaVu Ser"):
        write_figures(study, ["r_precision"], tmp_path, "x", choices=Choices(font="DejaVu Serf"))
    assert Choices(names=NAMES).shown("csd@tp_sds:iclr, my_tp_sds") == "CSD@TP-SDS:iclr, my_tp_sds"
