"""Methods at settings of their own, and at numbers of steps of their own, in one table that says so."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from eval.command import open_runs
from eval.figures.write import FIGURES
from eval.runs import Runs
from eval.tables import differences
from eval.tables.table import as_csv, latex, markdown
from harness.config import Config, UserError, apply_overrides
from harness.records.folder import RunFolder
from tests.eval.conftest import PROMPTS, TOY, Sweep


def opened(runs: Sweep, clip_folder: Path, **options) -> Runs:
    return open_runs(runs.root, clip=str(clip_folder), device="cpu", samples=0, **options)


def own(*items: str) -> Config:
    return apply_overrides(TOY, items)


def add(runs: Sweep, method: str, config: Config, **spec) -> list[RunFolder]:
    return [
        runs.add(method, prompt, seed, config=config, **spec) for prompt in PROMPTS[:3] for seed in (0, 1)
    ]


@pytest.fixture
def mixed(runs: Sweep) -> Sweep:
    """csd at equal and at its own settings, and sdi at others, beside those of `runs`."""
    add(runs, "csd", TOY)
    add(runs, "csd", own("optim.lr=0.001"), variant="own", own={"optim.lr": 0.001})
    add(runs, "sdi", own("guidance.cfg_scale=7.5"), variant="own", own={"guidance.cfg_scale": 7.5})
    return runs


def test_they_share_a_table_whose_stamp_says_so(mixed: Sweep, clip_folder: Path) -> None:
    study = opened(mixed, clip_folder)
    assert study.methods == ["uniform_sds", "csd", "csd:own", "sdi:own", "tp_sds"]
    said = "each method at its own settings (csd:own: optim.lr 0.001; sdi:own: guidance.cfg_scale 7.5)"
    assert said in study.stamp.line() and said == study.stamp.settings
    table = differences.table(study)
    assert [row[0] for row in table.rows] == ["csd", "csd:own", "sdi:own", "tp_sds"]
    assert "at its own settings" in markdown([table], study.stamp, "t") and "own settings" in latex(
        table, study.stamp
    )
    (line, *_) = csv.DictReader(io.StringIO(as_csv(table, study.stamp)))
    assert line["own settings"] == "csd:own: optim.lr 0.001; sdi:own: guidance.cfg_scale 7.5"
    assert "Each method at its own settings (csd:own" in FIGURES["r_precision"].draw(study).caption


@pytest.mark.parametrize("figure", ["methods_grid", "seeds_grid"])
def test_what_stands_at_the_foot_of_a_grid_is_not_on_its_pictures(
    figure: str, mixed: Sweep, clip_folder: Path
) -> None:
    long = {"guidance.negative": ", ".join(["ugly"] * 20), "optim.betas": [0.5, 0.9], "optim.lr": 0.03}
    config = own(f"guidance.negative={long['guidance.negative']}", "optim.betas=[0.5,0.9]", "optim.lr=0.03")
    for method in ("ism", "asd", "cfd", "nfsd", "sctd"):
        add(mixed, method, config, variant="own", own=long)
    sheet = FIGURES[figure].draw(opened(mixed, clip_folder))
    lowest = min(axes.get_position().y0 for axes in sheet.axes)
    assert "sctd:own" in sheet.caption and 0 < sheet.foot <= lowest


def test_tables_of_equal_settings_say_nothing_of_it(runs: Sweep, clip_folder: Path) -> None:
    study = opened(runs, clip_folder)
    assert "settings" not in study.stamp.line() and "own settings" not in study.stamp.fields([])
    assert "settings" not in FIGURES["r_precision"].draw(study).caption


def test_what_is_set_otherwise_by_hand_is_refused_as_ever(mixed: Sweep, clip_folder: Path) -> None:
    mixed.add("sjc", PROMPTS[0], 0, config=own("optim.lr=0.5"))  # a key that is csd's own, and not sjc's
    with pytest.raises(UserError, match=r"different settings.*: optim\.lr is 0\.01 and 0\.5 .*allow-mixed"):
        opened(mixed, clip_folder)
    study = opened(mixed, clip_folder, allow_mixed=True)
    assert all("@" in name for name in study.methods)


def test_a_setting_beside_a_methods_own_is_refused(mixed: Sweep, clip_folder: Path) -> None:
    other = own("optim.lr=0.001", "guidance.rescale=0.5")
    mixed.add("ism", PROMPTS[0], 0, config=other, variant="own", own={"optim.lr": 0.001})
    with pytest.raises(UserError, match=r"different settings in one folder: guidance\.rescale is 0\.\d and"):
        opened(mixed, clip_folder)


@pytest.mark.parametrize(("per_step", "compared"), [(4.0, True), (4.1, True), (6.0, False)])
def test_runs_of_an_equal_budget_are_held_against_each_other(
    per_step: float, compared: bool, runs: Sweep, clip_folder: Path
) -> None:
    for folder in add(runs, "vsd", own("steps=10")):
        folder.append_metrics([{"step": 10, "time": 1.0, "nfe": 10 * per_step}])
    for path in runs.root.glob("*_sds-*"):
        RunFolder(path).append_metrics([{"step": 20, "time": 2.0, "nfe": 40}])
    study = opened(runs, clip_folder)
    table = differences.table(study)
    assert [(row[0], row[1]) for row in table.rows] == [("tp_sds", 20), ("vsd", 10)][: 1 + compared]
    assert any("at an equal budget" in note for note in table.notes) == compared
    among = "among 2 rows" if compared else "among 1 row"
    assert any(among in note for note in table.notes)


def test_a_schedule_is_held_against_uniform_timesteps_on_the_same_distillation(
    runs: Sweep, clip_folder: Path
) -> None:
    with pytest.raises(UserError, match="needs a method a@b beside a@uniform_sds"):
        differences.by_distillation(opened(runs, clip_folder))
    for method, shows in (
        ("csd@uniform_sds", PROMPTS[5]),
        ("csd@tp_sds", None),
        ("uniform_sds@tp_sds", None),
    ):
        params = {"distillation": {}, "schedule": {}}
        add(runs, method, TOY, params=params, shows=shows)
    add(runs, "ism@tp_sds", TOY, params={"distillation": {}, "schedule": {}})  # without ism@uniform_sds
    table = differences.by_distillation(opened(runs, clip_folder))
    told = {row[0]: (round(row[2].value, 6), *row[4:7]) for row in table.rows}  # type: ignore[union-attr]
    assert told == {"csd@tp_sds": (1.0, 6, 0, 0), "uniform_sds@tp_sds": (round(1 / 6, 6), 1, 5, 0)}
