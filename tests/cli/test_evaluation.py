"""From run folders to tables and figures through the command line."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from harness.cli import app
from harness.config import UserError
from harness.scene.kind import look_in
from tests.eval.conftest import PROMPTS, Sweep, clip_folder, picture, runs

__all__ = ["clip_folder", "runs"]  # fixtures of the eval tests, used here, too


def call(*arguments: object) -> None:
    app([str(argument) for argument in arguments], standalone_mode=False)


def everything(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.journey
def test_deleting_every_cache_and_wandb_changes_no_byte(
    runs: Sweep, clip_folder: Path, tmp_path: Path
) -> None:
    for prompt in PROMPTS[:3]:
        runs.add("linear_decay", prompt, 0)
    (runs.root / "wandb").mkdir()
    made = {}
    for name in ("first", "second"):
        out = tmp_path / name
        call(
            "tables", runs.root, "--clip", clip_folder, "--out", out, "--device", "cpu", "--prior-samples", 0
        )
        call(
            "figures", runs.root, "r_precision", "steps_grid", "seeds_grid", "diversity", "spectra",
            "--clip", clip_folder, "--out", out, "--device", "cpu", "--prior-samples", 0,
        )  # fmt: skip
        made[name] = everything(out)
        for cache in [runs.root / "wandb", *runs.root.glob("*/eval"), *runs.root.glob("eval")]:
            shutil.rmtree(cache, ignore_errors=True)
    assert made["first"] == made["second"]
    assert {"r_precision.md", "r_precision.pdf", "r_precision.png", "claims.tex"} <= set(made["first"])


def test_other_peoples_renders_are_scored_like_ours(clip_folder: Path, tmp_path: Path) -> None:
    suite = tmp_path / "six.txt"
    suite.write_text("\n".join(PROMPTS) + "\n")
    for index, prompt in enumerate(PROMPTS):
        folder = tmp_path / "renders" / "theirs" / str(index) / "0"
        folder.mkdir(parents=True)
        for frame, image in enumerate(picture(prompt, index, views=8)):
            Image.fromarray(image).save(folder / f"rgb_{frame}.png")
    out = tmp_path / "imported"
    call("import", tmp_path / "renders", "--suite", suite, "--out", out, "--toy", "--azimuths", 4)
    call("eval", out, "--clip", clip_folder, "--device", "cpu")
    lines = (out / "eval" / "table.csv").read_text().splitlines()
    head, row = (line.split(",") for line in lines[:2])
    cells = dict(zip(head, row, strict=False))
    assert cells["method"] == "theirs" and cells["prompts"] == "6"
    assert float(cells["majority"]) == 1.0 and cells["held-out"] == ""


def test_export_is_every_logged_value(runs: Sweep, tmp_path: Path) -> None:
    out = tmp_path / "logs.parquet"
    for folder in runs.root.glob("*/metrics.jsonl"):
        rows = [json.loads(line) for line in folder.read_text().splitlines()]
        folder.write_text("".join(json.dumps(row | {"grad_norm": row["step"] / 4}) + "\n" for row in rows))
    call("export", runs.root, "--out", out)
    frame = pd.read_parquet(out)
    own = frame.loc[frame["metric"] == "grad_norm"]
    assert len(own) == 2 * 12 and np.allclose(own["value"], own["step"] / 4)
    with pytest.raises(UserError, match=r"must end in \.parquet or \.csv or"):
        call("export", runs.root, "--out", tmp_path / "logs.txt")


def test_an_analytic_experiment_needs_no_runs(tmp_path: Path) -> None:
    call("reproduce", "fig6", "--out", tmp_path)
    assert set(everything(tmp_path)) == {f"fig6/schedules.{kind}" for kind in ("pdf", "png", "json")}
    with pytest.raises(UserError, match="no experiment 'fig66'; did you mean"):
        call("reproduce", "fig66", "--out", tmp_path)


def test_the_command_of_a_figure_makes_it_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = []

    def write(study: Any, names: list[str], out: Path, command: str, **options: Any) -> list[Path]:
        made.append((study, names, command, options))
        return []

    monkeypatch.setattr("harness.reproduce.evaluated_runs", lambda folder, **options: (folder, options))
    monkeypatch.setattr("eval.figures.write.write_figures", write)
    monkeypatch.setattr("harness.cli.evaluation.runs_and_results", lambda runs, *_: (runs, tmp_path, ["one"]))
    (tmp_path / "mine.py").touch()
    options = ["--clip", "my clip", "--allow-mixed", "--prior-samples", "0", "--figures-dir", tmp_path]
    options += ["--scenes-dir", tmp_path, "--name", "tp_sds=Our own", "--no-footnote", "--width", "3.5"]
    call(
        "figures", "my runs", "seeds_grid", "prompt=a bus", *options, "--display-names", "--font", "Noto Sans"
    )
    words = shlex.split(made[0][2])
    assert words[0] == "harness" and {str(option) for option in options} < {*words}
    call(*words[1:])
    assert made[0] == made[1]
    call("figures", "runs", "--out", tmp_path, "--device", "cpu")
    assert made[2][2] == "harness figures runs"
    look_in([])


def test_a_report_needs_no_pool_in_common(
    runs: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Sweep(runs.root, runs.suite.model_copy(update={"name": "two", "sha256": "ab" * 32}), PROMPTS[4:])
    other.add("linear_decay", PROMPTS[4], 0)
    call("report", runs.root, "--out", tmp_path / "report", "--clip", "no scorer is loaded")
    assert "no tables and curves: runs of different suites" in capsys.readouterr().err
    assert "choose one of suite=six" in (tmp_path / "report" / "data" / "results.js").read_text()
    assert len(list((tmp_path / "report" / "data" / "run").iterdir())) == 13
