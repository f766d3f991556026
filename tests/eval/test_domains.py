"""R-Precision by what the prompts are of."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from eval.command import open_runs
from eval.metric import known
from eval.tables.domains import domain
from eval.tables.made import make_tables
from eval.tables.table import Number
from harness.config import UserError
from tests.eval.conftest import PROMPTS, Sweep


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red car", "vehicles"),
        ("a green orange", "food"),
        ("an orange cat with a blue collar", "animals"),
        ("a black traffic light with a red pole", "street"),
        ("A Corgi, on a rug.", "animals"),
        ("a red apple on a white plate", "one on another"),
        ("a blue cup with a white handle on a black table", "one on another"),
        ("a wine glass", "kitchen"),
        ("a DSLR photo of nothing at all", "other"),
    ],
)
def test_a_prompt_is_of_its_noun(prompt: str, expected: str) -> None:
    assert domain(prompt) == expected


def test_rows_are_those_of_a_domain_and_differ_from_its_baseline(runs: Sweep, clip_folder: Path) -> None:
    found = open_runs(runs.root, clip=str(clip_folder), device="cpu", samples=0)
    [table], _ = make_tables(found, ["domains"])
    rows = {(row[0], row[1]): row for row in table.rows}
    assert list(rows) == [
        (name, method)
        for name in ("vehicles", "furniture", "kitchen")
        for method in ("uniform_sds", "tp_sds")
    ]
    # One of uniform SDS's two cups is another thing (conftest), and all else is right.
    assert cast(Number, rows["kitchen", "uniform_sds"][3]).value == 0.5
    assert cast(Number, rows["kitchen", "tp_sds"][3]).value == 1
    assert cast(Number, rows["kitchen", "tp_sds"][5]).value == pytest.approx(0.5)
    assert cast(Number, rows["vehicles", "tp_sds"][5]).value == 0 and rows["kitchen", "uniform_sds"][5] == "–"
    assert rows["kitchen", "tp_sds"][-2:] == [1, 2]
    made, left_out = make_tables(found)
    asked = {"domains", *(metric.name for metric in known() if metric.on_request)}
    assert {"geometry", "hps"} <= asked and not asked & {each.name for each in made}, "made where named"
    assert not [line for line in left_out for name in asked if f"no table {name}:" in line]
    only = [run.run_id for run in found if run.prompt == PROMPTS[0]]
    one = open_runs(runs.root, clip=str(clip_folder), device="cpu", samples=0, only=only)
    with pytest.raises(UserError, match="all prompts are of one domain: kitchen"):
        make_tables(one, ["domains"])
