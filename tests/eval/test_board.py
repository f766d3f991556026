"""A leaderboard: rows computed anew, best first, and nothing of another protocol."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from eval.command import open_runs
from eval.published.board import entries, write_board
from eval.published.write import publish
from eval.runs import Runs
from harness.config import UserError, apply_overrides
from tests.eval.conftest import PROMPTS, TOY, Sweep


@pytest.fixture
def opened(clip_folder: Path) -> Callable[[Path], Runs]:
    return partial(open_runs, clip=str(clip_folder), device="cpu", samples=0)


def submitted(where: Path, name: str, method: str, right: int, config=TOY) -> None:
    """A published folder of one method that shows so many of the six prompts."""
    sweep = Sweep(where / f"{name}-runs")
    for number, prompt in enumerate(PROMPTS):
        shows = prompt if number < right else PROMPTS[(number + 1) % len(PROMPTS)]
        sweep.add(method, prompt, 0, shows=shows, config=config)
    publish(sweep.root, where / "submissions" / name, name, "CC-BY-4.0")


def test_rows_are_computed_anew_best_first(opened: Callable[[Path], Runs], tmp_path: Path) -> None:
    submitted(tmp_path, "<b>theirs", "uniform_sds", 3)
    submitted(tmp_path, "ours", "tp_sds", 5)
    made = write_board(tmp_path / "submissions", tmp_path / "site", "A <i>board</i>", opened, tmp_path / "c")
    assert [path.name for path in made] == ["index.html", "board.csv", "board.css"]
    with (tmp_path / "site" / "board.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["submission"], row["method"]) for row in rows] == [
        ("ours", "tp_sds"), ("<b>theirs", "uniform_sds"),
    ]  # fmt: skip
    assert rows[0]["majority"].startswith("83.3 [") and rows[1]["majority"].startswith("50.0 [")
    assert rows[0]["controls"] == "not run"
    page = (tmp_path / "site" / "index.html").read_text()
    assert "<b>" not in page and "A &lt;i&gt;board" in page and "<script" not in page
    assert "scorer_sha256" in page and '<span class="mark">toy</span>' in page


def test_another_protocol_is_refused_by_name(opened: Callable[[Path], Runs], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no published folder"):
        (tmp_path / "submissions").mkdir()
        entries(tmp_path / "submissions", opened, tmp_path / "c")
    submitted(tmp_path, "ours", "tp_sds", 5)
    write_board(tmp_path / "submissions", tmp_path / "site", "A board", opened, tmp_path / "c")
    other = apply_overrides(TOY, ["views.azimuths=3"])
    submitted(tmp_path, "a-other", "uniform_sds", 3, other)
    with pytest.raises(
        UserError, match=r"a-other is of another protocol: its views is .*and this leaderboard's"
    ):
        entries(tmp_path / "submissions", opened, tmp_path / "c")
