from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from eval.command import evaluate as write
from eval.command import open_runs
from eval.figures.write import FIGURES
from eval.metrics.r_precision import CEILING, RPrecision
from eval.runs import Runs
from eval.tables.made import make_tables
from eval.tables.table import Number, latex
from harness.config import Config, UserError, ViewsConfig, apply_overrides
from harness.console import Console
from harness.records.folder import run_folders
from tests.eval.conftest import PROMPTS, TOY, Sweep, picture


def evaluate(runs: Sweep, clip_folder: Path, **options) -> tuple[Runs, str]:
    text = io.StringIO()
    study = open_runs(runs.root, clip=str(clip_folder), device="cpu", samples=0, **options)
    write(study, console=Console(file=text, width=200))
    return study, text.getvalue()


def final(study: Runs, method: str) -> pd.DataFrame:
    frame = study.of(RPrecision).frame
    return frame.loc[frame["method"] == method]


def misses(study: Runs, method: str) -> int:
    return sum(isinstance(why, str) for why in final(study, method)["problem"])


def ground_truth(prompt: str, views: ViewsConfig) -> np.ndarray:
    return picture(prompt, 7, views.tiles)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_writes_everything_and_twice_the_same(runs: Sweep, clip_folder: Path) -> None:
    study, printed = evaluate(runs, clip_folder, ground_truth=ground_truth)
    first = files(runs.root / "eval")
    assert set(first) == {"table.md", "table.csv", "contact_sheet.png", "manifest.json"}
    evaluate(runs, clip_folder, ground_truth=ground_truth)
    assert files(runs.root / "eval") == first
    assert study.methods == ["uniform_sds", "tp_sds"]
    assert sorted(set(study.of(RPrecision).scores["step"])) == [10, 20]
    for text in (printed, first["table.md"].decode()):
        for word in (
            "toy",
            "toy-tiny",
            "r_precision v1",
            "six (6 captions",
            CEILING,
            "chance (floor)",
            "16.7",
        ):
            assert word in text
    manifest = json.loads(first["manifest.json"])
    assert len(manifest["runs"]) == 12 and manifest["metrics"]["r_precision"] == 1 and manifest["toy"]


def test_the_numbers_are_right(runs: Sweep, clip_folder: Path) -> None:
    study, _ = evaluate(runs, clip_folder, ground_truth=ground_truth)
    means = {
        group: np.mean(list(rows["majority"]))
        for group, rows in study.of(RPrecision).scores.groupby(["method", "step"])
    }
    expected = {("tp_sds", 10): 1, ("tp_sds", 20): 1, ("uniform_sds", 10): 0, ("uniform_sds", 20): 5 / 6}
    assert means == pytest.approx(expected)
    rows = {row[0]: row for row in study.of(RPrecision).own_table().rows}
    assert set(rows) == {"uniform_sds", "tp_sds", CEILING, "chance (floor)"}
    cell = rows["uniform_sds"][2]
    assert isinstance(cell, Number) and cell.value == pytest.approx(5 / 6)
    assert 0.3 < cell.low < 0.45 and cell.high < 1 and str(rows[CEILING][2]) == "100.0 [43.9, 100.0]"
    assert rows["uniform_sds"][-4:] == [3, 2, 0, 6]


def test_chance_says_of_which_pool_it_is_and_stands_below_its_ceiling(
    runs: Sweep, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, _ = evaluate(runs, clip_folder, ground_truth=ground_truth)
    metric = study.of(RPrecision)
    frame, ceiling = (each.assign(pool=4) for each in (metric.frame, metric.ceiling))
    nouns = SimpleNamespace(name="textureless", frame=frame, ceiling=ceiling)
    monkeypatch.setattr(metric, "beside", lambda: [nouns])
    assert [(row[0], row[-1]) for row in metric.own_table().rows[-4:]] == [
        (CEILING, 6),
        ("chance (floor)", 6),
        (f"{CEILING}, textureless", 4),
        ("chance (floor), textureless", 4),
    ]


def test_csv_lines_carry_what_their_number_rests_on(runs: Sweep, clip_folder: Path) -> None:
    evaluate(runs, clip_folder)
    lines = list(csv.DictReader(io.StringIO((runs.root / "eval" / "table.csv").read_text())))
    assert [line["method"] for line in lines] == ["uniform_sds", "tp_sds", "chance (floor)"]
    for line in lines[:2]:
        assert (
            0 <= float(line["majority low"]) <= float(line["majority"]) <= float(line["majority high"]) <= 1
        )
        assert (line["prompts"], line["seeds"], line["failed"], line["pool"]) == ("3", "2", "0", "6")
        assert line["clip"] == "toy-tiny" and len(line["weights"]) == 64 and line["toy"] == "1"
        assert "r_precision=1" in line["metrics"]


def test_failed_runs_are_misses_and_are_shown(runs: Sweep, clip_folder: Path) -> None:
    before, _ = evaluate(runs, clip_folder)
    for seed in (0, 1):
        runs.add("uniform_sds", PROMPTS[3], seed, end="failed")
    study, printed = evaluate(runs, clip_folder)
    assert misses(study, "uniform_sds") == 2
    assert misses(study, "tp_sds") == 0
    for name in ("majority", "per_view", "mean_sim", "held_out"):
        then = np.mean(list(final(before, "uniform_sds")[name]))
        assert np.mean(list(final(study, "uniform_sds")[name])) == pytest.approx(then * 3 / 4)
    assert "non-finite gradient at step 13" in printed and "not paired" in printed
    scores = study.of(RPrecision).scores
    early = scores.loc[(scores["method"] == "uniform_sds") & (scores["step"] == 10)]
    assert not any(isinstance(why, str) for why in early["problem"]), (
        "its views of step 10 were stored before it failed"
    )


def test_a_failed_run_is_a_miss_even_with_its_last_views(runs: Sweep, clip_folder: Path) -> None:
    folder = runs.add("tp_sds", PROMPTS[4], 0, end="failed")
    folder.save_views(20, picture(PROMPTS[4], 1))
    study, _ = evaluate(runs, clip_folder)
    assert misses(study, "tp_sds") == 1


def test_damaged_views_are_told_and_do_not_stop_the_rest(runs: Sweep, clip_folder: Path) -> None:
    victim = next(runs.root.glob("tp_sds-*"))
    (victim / "views" / "step_000020.png").write_bytes(b"\x89PNG broken")
    study, printed = evaluate(runs, clip_folder)
    assert misses(study, "tp_sds") == 1
    assert "views of step 20" in printed


def test_unfinished_runs_are_left_out_and_counted(runs: Sweep, clip_folder: Path) -> None:
    before, _ = evaluate(runs, clip_folder)
    runs.add("tp_sds", PROMPTS[5], 0, end="new")
    study, printed = evaluate(runs, clip_folder)
    pd.testing.assert_frame_equal(study.of(RPrecision).scores, before.of(RPrecision).scores)
    assert "1 unfinished" in printed


def test_nothing_ended_is_a_user_error(tmp_path: Path, clip_folder: Path) -> None:
    runs = Sweep(tmp_path / "runs")
    runs.add("tp_sds", PROMPTS[0], 0, end="new")
    with pytest.raises(UserError, match=r"no run .* has ended"):
        evaluate(runs, clip_folder)


def test_mixed_settings_are_refused_unless_asked_for(runs: Sweep, clip_folder: Path) -> None:
    other = TOY.model_copy(update={"optim": TOY.optim.model_copy(update={"lr": 0.5})})
    runs.add("tp_sds", PROMPTS[0], 0, config=other)
    with pytest.raises(UserError, match=r"optim\.lr is .*allow-mixed"):
        evaluate(runs, clip_folder)
    study, _ = evaluate(runs, clip_folder, allow_mixed=True)
    assert len(study.methods) == 3 and all("@" in name for name in study.methods)


def test_runs_with_their_own_number_of_steps_stand_in_rows_of_their_own(
    runs: Sweep, clip_folder: Path
) -> None:
    for method in ("tp_sds", "uniform_sds"):
        for prompt in PROMPTS[:3]:
            runs.add(method, prompt, 0, config=TOY.model_copy(update={"steps": 40}), shows=PROMPTS[5])
    study, _ = evaluate(runs, clip_folder)
    assert study.totals == [20, 40]
    rows = {(row[0], row[1]): str(row[2]) for row in study.of(RPrecision).own_table().rows}
    assert rows["tp_sds", 20] == "100.0 [43.9, 100.0]" and rows["tp_sds", 40] == "0.0 [0.0, 56.1]"
    [[own_n], _] = make_tables(study, ["own_n"])
    assert [str(cell) for cell in own_n.rows[1][:3]] == ["tp_sds", rows["tp_sds", 20], rows["tp_sds", 40]]


def test_samples_of_one_prior_do_not_stand_beside_runs_of_several(runs: Sweep, clip_folder: Path) -> None:
    other = apply_overrides(TOY, ["guidance.prior=toy-other"])
    runs.add("tp_sds", PROMPTS[0], 0, config=other, axes=("guidance.prior",))
    study = open_runs(runs.root, clip=str(clip_folder), device="cpu", samples=2, allow_mixed=True)
    assert study.prior_samples == {}
    assert "no samples of the prior: these runs have several priors" in study.notes


def test_mixed_pools_are_refused_unless_asked_for(runs: Sweep, clip_folder: Path) -> None:
    other = Sweep(runs.root, runs.suite.model_copy(update={"name": "two", "sha256": "ab" * 32}), PROMPTS[4:])
    other.add("linear_decay", PROMPTS[4], 0)
    with pytest.raises(UserError, match="different pools"):
        evaluate(runs, clip_folder)
    study, _ = evaluate(runs, clip_folder, allow_mixed=True, ground_truth=ground_truth)
    rows = study.of(RPrecision).own_table().rows
    assert {row[-1] for row in rows if row[0] == "linear_decay"} == {2}
    assert sorted(row[-1] for row in rows if row[0] == CEILING) == [2, 6]  # type: ignore[type-var]


def test_other_weights_of_the_prior_are_refused_unless_asked_for(runs: Sweep, clip_folder: Path) -> None:
    runs.add("uniform_sds", PROMPTS[4], 0, weights="0" * 64)
    with pytest.raises(UserError, match="other weights"):
        evaluate(runs, clip_folder)
    study, _ = evaluate(runs, clip_folder, allow_mixed=True)
    assert study.stamp.priors == ("toy-sd 000000000000", "toy-sd ffffffffffff")


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        ({"device": "cuda:0", "encoder": "triton"}, True),
        ({"device": "cpu", "encoder": "numba", "compiled": True}, True),
        ({"device": "cpu", "encoder": "torch", "compiled": False}, False),
        ({}, False),  # imported, or from before this was recorded
    ],
)
def test_what_was_computed_otherwise_is_refused_unless_a_test_shows_that_it_is_the_same(
    other: dict, differs: bool, runs: Sweep, clip_folder: Path
) -> None:
    for folder in run_folders(runs.root):
        env = folder.env()
        if env:
            folder.save_env(env | {"device": "cpu", "encoder": "numba"})
    added = runs.add("uniform_sds", PROMPTS[4], 0)
    added.save_env((added.env() or {}) | other)
    if differs:
        with pytest.raises(UserError, match="computed otherwise"):
            evaluate(runs, clip_folder)
    evaluate(runs, clip_folder, allow_mixed=differs)


def test_toy_and_real_priors_never_share_a_table(runs: Sweep, clip_folder: Path) -> None:
    real = Config(
        steps=20,
        views=TOY.views,
        guidance=TOY.guidance.model_copy(update={"prior": "CompVis/stable-diffusion-v1-4"}),
    )
    runs.add("tp_sds", PROMPTS[0], 0, config=real)
    with pytest.raises(UserError, match="never share a table"):
        evaluate(runs, clip_folder, allow_mixed=True)


def test_runs_of_other_random_streams_are_read_marked_and_never_share_a_table(
    tmp_path: Path, clip_folder: Path
) -> None:
    runs = Sweep(tmp_path / "runs")
    for prompt in PROMPTS[:2]:
        runs.add("uniform_sds", prompt, 0, spec_version=1)
    _, printed = evaluate(runs, clip_folder)
    written = files(runs.root / "eval")
    assert "streams v1" in printed and "streams v1" in written["table.md"].decode()
    assert json.loads(written["manifest.json"])["streams"] == 1
    assert {row["streams"] for row in csv.DictReader(io.StringIO(written["table.csv"].decode()))} == {"1"}
    runs.add("tp_sds", PROMPTS[0], 0)
    with pytest.raises(UserError, match=r"by seed: version 1; by prompt and seed: 2\) never share a table"):
        evaluate(runs, clip_folder, allow_mixed=True)


def test_runs_of_random_weights_say_so_everywhere(tmp_path: Path, clip_folder: Path) -> None:
    runs = Sweep(tmp_path / "runs")
    for method in ("uniform_sds", "tp_sds"):
        for prompt in PROMPTS[:2]:
            for seed in (0, 1):
                runs.add(method, prompt, seed, stamp="random")
    study, printed = evaluate(runs, clip_folder)
    written = files(runs.root / "eval")
    manifest = json.loads(written["manifest.json"])
    assert (manifest["stamp"], manifest["toy"]) == ("RANDOM WEIGHTS", False)
    for text in (printed, written["table.md"].decode(), latex(make_tables(study)[0][0], study.stamp)):
        assert "RANDOM WEIGHTS" in text and "toy ·" not in text
    for line in csv.DictReader(io.StringIO(written["table.csv"].decode())):
        assert (line["stamp"], line["toy"]) == ("RANDOM WEIGHTS", "0")
    for table in make_tables(study)[0]:
        if table.name == "claims":
            at = table.columns.index("scale")
            assert {row[at] for row in table.rows} == {"RANDOM WEIGHTS"}
    sheet = FIGURES["r_precision"].draw(study)
    assert "RANDOM WEIGHTS" in [text.get_text() for text in sheet.texts]
    runs.add("tp_sds", PROMPTS[2], 0, stamp="toy")
    with pytest.raises(UserError, match="never share a table"):
        evaluate(runs, clip_folder, allow_mixed=True)


def test_toy_clip_does_not_score_real_priors(tmp_path: Path, clip_folder: Path) -> None:
    runs = Sweep(tmp_path / "runs")
    real = TOY.guidance.model_copy(update={"prior": "CompVis/stable-diffusion-v1-4"})
    runs.add("tp_sds", PROMPTS[0], 0, config=TOY.model_copy(update={"guidance": real}))
    with pytest.raises(UserError, match="knows only the toy world"):
        evaluate(runs, clip_folder)


def test_a_run_without_a_suite_has_no_pool(tmp_path: Path, clip_folder: Path) -> None:
    runs = Sweep(tmp_path / "runs")
    runs.add("tp_sds", PROMPTS[0], 0, suite=None)
    with pytest.raises(UserError, match="no suite"):
        evaluate(runs, clip_folder)


def test_a_renderer_that_does_not_know_a_prompt_leaves_the_table_without_ceiling(
    runs: Sweep, clip_folder: Path
) -> None:
    def refuse(prompt: str, views: ViewsConfig) -> np.ndarray:
        raise UserError(f"unknown word in '{prompt}'")

    study, printed = evaluate(runs, clip_folder, ground_truth=refuse)
    assert not len(study.of(RPrecision).ceiling) and "no ceiling: unknown word" in printed


def test_the_ceiling_covers_the_prompts_of_the_table(runs: Sweep, clip_folder: Path) -> None:
    asked: list[str] = []
    study, _ = evaluate(
        runs,
        clip_folder,
        ground_truth=lambda prompt, views: asked.append(prompt) or ground_truth(prompt, views),
    )
    assert asked == list(PROMPTS[:3])
    ceiling = study.of(RPrecision).ceiling
    assert list(ceiling["prompt"]) == asked and set(ceiling["pool"]) == {6}


def test_the_contact_sheet_shows_every_seed_of_every_method(runs: Sweep, clip_folder: Path) -> None:
    runs.add("uniform_sds", PROMPTS[3], 0, end="failed")
    evaluate(runs, clip_folder, ground_truth=ground_truth)
    sheet = np.asarray(Image.open(runs.root / "eval" / "contact_sheet.png"))
    tiles = {
        sheet[y : y + 16, x : x + 16].tobytes()
        for y in range(len(sheet) - 15)
        for x in range(sheet.shape[1] - 15)
    }
    for folder in runs.root.glob("*_sds-*"):
        strip = folder / "views" / "step_000020.png"
        if strip.exists():
            image = np.asarray(Image.open(strip))
            for k in range(4):
                assert image[:, 16 * k : 16 * (k + 1)].tobytes() in tiles
    assert ground_truth(PROMPTS[0], TOY.views)[0].tobytes() in tiles


def test_a_long_suite_gets_further_pages(clip_folder: Path, tmp_path: Path) -> None:
    from eval.figures.contact_sheet import contact_sheets

    cells = {f"prompt {i}": {"m": [picture(PROMPTS[0], i)]} for i in range(50)}
    assert len(contact_sheets("t", cells, 4)) == 3


def test_rows_do_not_depend_on_the_order_of_runs(runs: Sweep, clip_folder: Path, monkeypatch) -> None:
    study, _ = evaluate(runs, clip_folder)
    from eval.sources.load import load_runs

    monkeypatch.setattr("eval.runs.load_runs", lambda root: (load_runs(root)[0][::-1], []))
    assert (
        evaluate(runs, clip_folder)[0].of(RPrecision).own_table().rows
        == study.of(RPrecision).own_table().rows
    )
