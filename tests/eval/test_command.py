from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from eval.command import CEILING, run
from eval.tables import Report
from harness.config import Config, UserError, ViewsConfig
from tests.eval.conftest import PROMPTS, TOY, Runs, picture


def evaluate(runs: Runs, clip_folder: Path, **options) -> tuple[Report, str]:
    text = io.StringIO()
    report = run(
        runs.root, clip=str(clip_folder), console=Console(file=text, width=200), device="cpu", **options
    )
    return report, text.getvalue()


def ground_truth(prompt: str, views: ViewsConfig) -> np.ndarray:
    return picture(prompt, 7, views.azimuths + 1)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_writes_everything_and_twice_the_same(runs: Runs, clip_folder: Path) -> None:
    report, printed = evaluate(runs, clip_folder, ground_truth=ground_truth)
    first = files(runs.root / "eval")
    assert set(first) == {"table.md", "table.csv", "contact_sheet.png", "manifest.json"}
    evaluate(runs, clip_folder, ground_truth=ground_truth)
    assert files(runs.root / "eval") == first
    assert {row.method for row in report.rows} == {"tp_sds", "uniform_sds"}
    assert [row.step for row in report.rows if row.method == "tp_sds"] == [10, 20]
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
    assert len(manifest["runs"]) == 12 and manifest["metrics"] == {"r_precision": 1} and manifest["toy"]


def test_the_numbers_are_right(runs: Runs, clip_folder: Path) -> None:
    report, _ = evaluate(runs, clip_folder, ground_truth=ground_truth)
    rows = {(row.method, row.step): row for row in [*report.rows, *report.ceiling]}
    expected = {
        ("tp_sds", 10): 1,
        ("tp_sds", 20): 1,
        ("uniform_sds", 10): 0,
        ("uniform_sds", 20): 5 / 6,
        (CEILING, 0): 1,
    }
    assert set(rows) == set(expected)
    for key, value in expected.items():
        for name, interval in rows[key].scores.items():
            assert interval.value == pytest.approx(value), (key, name)
    interval = rows["uniform_sds", 20].scores["majority"]
    assert (interval.n_prompts, interval.n_runs) == (3, 6) and interval.low == 0.5 and interval.high == 1


def test_csv_lines_carry_what_their_number_rests_on(runs: Runs, clip_folder: Path) -> None:
    evaluate(runs, clip_folder)
    lines = list(csv.DictReader(io.StringIO((runs.root / "eval" / "table.csv").read_text())))
    assert len(lines) == 2 * 2 * 4
    for line in lines:
        assert 0 <= float(line["low"]) <= float(line["value"]) <= float(line["high"]) <= 1
        assert (line["n_prompts"], line["n_seeds"], line["n_runs"], line["pool"]) == ("3", "2", "6", "6")
        assert line["clip"] == "toy-tiny" and len(line["weights"]) == 64 and line["toy"] == "1"


def test_failed_runs_are_misses_and_are_shown(runs: Runs, clip_folder: Path) -> None:
    before, _ = evaluate(runs, clip_folder)
    for seed in (0, 1):
        runs.add("uniform_sds", PROMPTS[3], seed, end="failed")
    report, printed = evaluate(runs, clip_folder)
    last = {row.method: row for row in report.rows if row.final}
    then = {row.method: row for row in before.rows if row.final}
    assert last["uniform_sds"].n_failed == 2 and last["tp_sds"].n_failed == 0
    for name, interval in last["uniform_sds"].scores.items():
        assert interval.value == pytest.approx(then["uniform_sds"].scores[name].value * 3 / 4)
    assert last["tp_sds"] == then["tp_sds"]
    assert "non-finite gradient at step 13" in printed and "not paired" in printed
    early = next(row for row in report.rows if row.method == "uniform_sds" and row.step == 10)
    assert early.n_failed == 0, "its views of step 10 were stored before it failed"


def test_a_failed_run_is_a_miss_even_with_its_last_views(runs: Runs, clip_folder: Path) -> None:
    folder = runs.add("tp_sds", PROMPTS[4], 0, end="failed")
    folder.save_views(20, picture(PROMPTS[4], 1))
    report, _ = evaluate(runs, clip_folder)
    assert next(row for row in report.rows if row.method == "tp_sds" and row.final).n_failed == 1


def test_damaged_views_are_told_and_do_not_stop_the_rest(runs: Runs, clip_folder: Path) -> None:
    victim = next(runs.root.glob("tp_sds-*"))
    (victim / "views" / "step_000020.png").write_bytes(b"\x89PNG broken")
    report, printed = evaluate(runs, clip_folder)
    assert next(row for row in report.rows if row.method == "tp_sds" and row.final).n_failed == 1
    assert "views of step 20" in printed


def test_unfinished_runs_are_left_out_and_counted(runs: Runs, clip_folder: Path) -> None:
    before, _ = evaluate(runs, clip_folder)
    runs.add("tp_sds", PROMPTS[5], 0, end="new")
    report, printed = evaluate(runs, clip_folder)
    assert report.rows == before.rows and "1 unfinished" in printed


def test_nothing_ended_is_a_user_error(tmp_path: Path, clip_folder: Path) -> None:
    runs = Runs(tmp_path / "runs")
    runs.add("tp_sds", PROMPTS[0], 0, end="new")
    with pytest.raises(UserError, match=r"no run .* has ended"):
        evaluate(runs, clip_folder)


def test_mixed_settings_are_refused_unless_asked_for(runs: Runs, clip_folder: Path) -> None:
    runs.add("tp_sds", PROMPTS[0], 0, config=TOY.model_copy(update={"steps": 40}))
    with pytest.raises(UserError, match=r"steps is .*allow-mixed"):
        evaluate(runs, clip_folder)
    report, _ = evaluate(runs, clip_folder, allow_mixed=True)
    assert len({row.method for row in report.rows}) == 3
    assert {row.step for row in report.rows if row.final} == {20, 40}


def test_mixed_pools_are_refused_unless_asked_for(runs: Runs, clip_folder: Path) -> None:
    other = Runs(runs.root, runs.suite.model_copy(update={"name": "two", "sha256": "ab" * 32}), PROMPTS[4:])
    other.add("linear_decay", PROMPTS[4], 0)
    with pytest.raises(UserError, match="different pools"):
        evaluate(runs, clip_folder)
    report, _ = evaluate(runs, clip_folder, allow_mixed=True, ground_truth=ground_truth)
    assert {row.method: row.pool for row in report.rows if row.final}["linear_decay"] == 2
    assert len(report.ceiling) == 2


def test_other_weights_of_the_prior_are_refused_unless_asked_for(runs: Runs, clip_folder: Path) -> None:
    runs.add("uniform_sds", PROMPTS[4], 0, weights="0" * 64)
    with pytest.raises(UserError, match="other weights"):
        evaluate(runs, clip_folder)
    report, _ = evaluate(runs, clip_folder, allow_mixed=True)
    assert report.stamp.priors == ("toy-sd 000000000000", "toy-sd ffffffffffff")


def test_toy_and_real_priors_never_share_a_table(runs: Runs, clip_folder: Path) -> None:
    real = Config(
        steps=20,
        views=TOY.views,
        guidance=TOY.guidance.model_copy(update={"prior": "CompVis/stable-diffusion-v1-4"}),
    )
    runs.add("tp_sds", PROMPTS[0], 0, config=real)
    with pytest.raises(UserError, match="never share a table"):
        evaluate(runs, clip_folder, allow_mixed=True)


def test_toy_clip_does_not_score_real_priors(tmp_path: Path, clip_folder: Path) -> None:
    runs = Runs(tmp_path / "runs")
    real = TOY.guidance.model_copy(update={"prior": "CompVis/stable-diffusion-v1-4"})
    runs.add("tp_sds", PROMPTS[0], 0, config=TOY.model_copy(update={"guidance": real}))
    with pytest.raises(UserError, match="knows only the toy world"):
        evaluate(runs, clip_folder)


def test_a_run_without_a_suite_has_no_pool(tmp_path: Path, clip_folder: Path) -> None:
    runs = Runs(tmp_path / "runs")
    runs.add("tp_sds", PROMPTS[0], 0, suite=None)
    with pytest.raises(UserError, match="no suite"):
        evaluate(runs, clip_folder)


def test_a_renderer_that_does_not_know_a_prompt_leaves_the_table_without_ceiling(
    runs: Runs, clip_folder: Path
) -> None:
    def refuse(prompt: str, views: ViewsConfig) -> np.ndarray:
        raise UserError(f"unknown word in '{prompt}'")

    report, printed = evaluate(runs, clip_folder, ground_truth=refuse)
    assert not report.ceiling and "no ceiling: unknown word" in printed


def test_the_ceiling_covers_the_prompts_of_the_table(runs: Runs, clip_folder: Path) -> None:
    asked: list[str] = []
    report, _ = evaluate(
        runs,
        clip_folder,
        ground_truth=lambda prompt, views: asked.append(prompt) or ground_truth(prompt, views),
    )
    assert asked == sorted(PROMPTS[:3])
    [ceiling] = report.ceiling
    assert ceiling.n_prompts == 3 and ceiling.pool == 6


def test_the_contact_sheet_shows_every_seed_of_every_method(runs: Runs, clip_folder: Path) -> None:
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
    from eval.contact_sheet import contact_sheets

    cells = {f"prompt {i}": {"m": [picture(PROMPTS[0], i)]} for i in range(50)}
    assert len(contact_sheets("t", cells, 4)) == 3


def test_rows_do_not_depend_on_the_order_of_runs(runs: Runs, clip_folder: Path, monkeypatch) -> None:
    report, _ = evaluate(runs, clip_folder)
    from eval.load import load_runs

    monkeypatch.setattr("eval.command.load_runs", lambda root: (load_runs(root)[0][::-1], []))
    assert evaluate(runs, clip_folder)[0].rows == report.rows
