"""What is missing costs its own cell: every other number stands, with the counts that it rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np

from eval.command import open_runs
from eval.runs import Runs
from eval.statistics.intervals import difference_if_paired
from eval.tables import changes, controls, differences, domains
from eval.tables.table import Number, Table
from harness.config import apply_overrides
from tests.eval.conftest import PROMPTS, TOY, Sweep

KEYS = ("guidance.cfg_scale", "optim.lr")
COMPOSED: dict[str, Any] = {"params": {"distillation": {}, "schedule": {}}}


def opened(runs: Sweep, clip_folder: Path, **options: Any) -> Runs:
    return open_runs(runs.root, clip=str(clip_folder), device="cpu", samples=0, **options)


def by_name(table: Table, *heads: str) -> dict[str, list[str]]:
    """The first cell of each row → the cells under these heads."""
    at = [table.columns.index(head) for head in heads]
    return {str(row[0]): [str(row[index]) for index in at] for row in table.rows}


def test_no_pair_is_no_difference() -> None:
    ours = {"a": {0: 1.0}}
    assert difference_if_paired(ours, {"a": {1: 1.0}}, np.random.default_rng(0)) is None
    assert difference_if_paired(ours, {}, np.random.default_rng(0)) is None
    found = difference_if_paired(ours, {"a": {0: 0.0}}, np.random.default_rng(0))
    assert found is not None and found.value == 1


def test_a_domain_without_a_pair_leaves_the_others_alone(runs: Sweep, clip_folder: Path) -> None:
    runs.add("tp_sds", "a pink donut", 0)
    runs.add("uniform_sds", "a pink donut", 1)
    rows = {(row[0], row[1]): row for row in domains.table(opened(runs, clip_folder)).rows}
    food, kitchen = rows["food", "tp_sds"], rows["kitchen", "tp_sds"]
    assert food[5:7] == ["–", "–"] and cast(Number, food[3]).value == 1
    assert cast(Number, kitchen[5]).value == 0.5


def test_a_row_without_a_pair_leaves_the_others_alone(runs: Sweep, clip_folder: Path) -> None:
    for method, seeds in (("csd@uniform_sds", (0, 1)), ("csd@tp_sds", (0, 1)), ("ism@uniform_sds", (0,))):
        for seed in seeds:
            runs.add(method, PROMPTS[0], seed, **COMPOSED)
    runs.add("ism@tp_sds", PROMPTS[0], 1, **COMPOSED)
    runs.add("linear_decay", PROMPTS[4], 0)
    pairs = [("linear_decay", "tp_sds"), ("tp_sds", "uniform_sds")]
    study = opened(runs, clip_folder, contrasts=pairs)
    heads = ("difference", "p (Holm)", "pairs", "dropped")
    found = by_name(differences.by_distillation(study), *heads)
    assert found["ism@tp_sds"] == ["–", "–", "0", "2"] and found["csd@tp_sds"][1:] == ["1.000", "2", "0"]
    found = by_name(differences.contrasts(study), *heads)
    assert found["linear_decay − tp_sds"] == ["–", "–", "0", "7"]
    assert found["tp_sds − uniform_sds"][2:] == ["6", "0"]


def test_a_changed_setting_without_a_pair_leaves_the_others_alone(tmp_path: Path, clip_folder: Path) -> None:
    made = Sweep(tmp_path / "runs")
    for settings, seeds in (((), (0,)), (("optim.lr=0.05",), (0,)), ((f"{KEYS[0]}=50",), (1,))):
        config = apply_overrides(TOY, [f"{KEYS[0]}=20", "optim.lr=0.01", *settings])
        for prompt in PROMPTS[:4]:
            for seed in seeds:
                made.add("uniform_sds", prompt, seed, config=config, axes=KEYS)
    found = by_name(changes.table(opened(made, clip_folder)), "by majority", "p (Holm)", "prompts")
    assert found["uniform_sds, cfg_scale 50"] == ["–", "–", "0"]
    assert found["uniform_sds, lr 0.05"][0].startswith("+0.0 [") and found["uniform_sds, lr 0.05"][2] == "4"


def test_a_control_without_a_pair_is_not_run_and_the_others_are(tmp_path: Path, clip_folder: Path) -> None:
    made = Sweep(tmp_path / "runs")
    for prompt, wrong in zip(PROMPTS, (*PROMPTS[2:], *PROMPTS[:2]), strict=True):
        made.add("uniform_sds", prompt, 0)
        made.add("uniform_sds", prompt, 0, shows=wrong, config=TOY.model_copy(update={"steps": 5}))
        for t in (100, 900):
            made.add("uniform_sds", prompt, 1, params={"t": t}, params_set=("t",), variant=f"t={t}")
    found = by_name(controls.table(opened(made, clip_folder)), "verdict")
    assert found["one small timestep, t = 100, fails"] == ["not run"]
    assert found["one large timestep, t = 900, lacks detail"] == ["not run"]
    assert found["a quarter of the steps is worse"] == ["seen"]


def test_a_control_is_of_the_largest_number_of_steps_that_both_have(
    tmp_path: Path, clip_folder: Path
) -> None:
    made = Sweep(tmp_path / "runs")
    short = TOY.model_copy(update={"steps": 10})
    t = {"params": {"t": 100}, "params_set": ("t",), "variant": "t=100"}
    for prompt, wrong in zip(PROMPTS, (*PROMPTS[2:], *PROMPTS[:2]), strict=True):
        made.add("uniform_sds", prompt, 0)
        made.add("uniform_sds", prompt, 0, shows=wrong, config=short)
        made.add("uniform_sds", prompt, 0, shows=wrong, config=short, **t)
    found = by_name(controls.table(opened(made, clip_folder)), "found")
    assert found["one small timestep, t = 100, fails"][0].startswith("+0.0 [")
