"""What is missing costs its own cell: every other number stands, with the counts that it rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np

from eval.command import open_runs
from eval.runs import Runs
from eval.statistics.intervals import difference_if_paired
from eval.tables import changes, claims, controls, convergence, differences, domains, own_n, power
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


def steps(n: int) -> dict[str, Any]:
    return {"config": TOY.model_copy(update={"steps": n})}


def claimed(table: Table) -> dict[tuple[str, str, str], list[str]]:
    """Claim, method and reading → what these runs say, the verdict, prompts and seeds."""
    return {(str(r[0]), str(r[3]), str(r[4])): [str(r[at]) for at in (5, 6, -2, -1)] for r in table.rows}


def test_claims_are_of_the_largest_number_of_steps_that_both_have(runs: Sweep, clip_folder: Path) -> None:
    for prompt in PROMPTS[:3]:
        for seed in (0, 1):
            runs.add("uniform_sds", prompt, seed, shows=PROMPTS[5], **steps(40))
            runs.add("tp_sds:iclr", prompt, seed, **steps(10))
    table = claims.table(opened(runs, clip_folder))
    found = claimed(table)
    better = found["better results than uniform SDS", "tp_sds", "last step"]
    assert better[0].startswith("+16.7 [") and better[0].endswith("] at N = 20") and better[2:] == ["3", "2"]
    faster = found["35 % faster convergence", "tp_sds", "checkpoints of one run"]
    assert faster[0].endswith("] at N = 20") and faster[1] != "not tested"
    for claim in ("35 % faster convergence", "better results than uniform SDS"):
        reading = "checkpoints of one run" if "faster" in claim else "last step"
        text, verdict, *_ = found[claim, "tp_sds:iclr", reading]
        assert verdict == "not tested" and "needs uniform_sds beside tp_sds:iclr at N = 10" in text
    assert len(table.notes) == 1


def test_own_n_that_no_run_has_in_full_is_not_tested(runs: Sweep, clip_folder: Path) -> None:
    for prompt in PROMPTS[:3]:
        for seed in (0, 1):
            runs.add("uniform_sds", prompt, seed, **steps(10))
        runs.add("tp_sds", prompt, 2, **steps(10))
        runs.add("tp_sds:iclr", prompt, 0, **steps(20))
        runs.add("tp_sds:iclr", prompt, 0, **steps(10))
    study = opened(runs, clip_folder)
    found = claimed(claims.table(study))
    text, verdict, *_ = found["35 % faster convergence", "tp_sds", "runs with their own N"]
    assert verdict == "not tested" and "no run of tp_sds has a score at every total" in text
    assert found["35 % faster convergence", "tp_sds:iclr", "runs with their own N"][1] != "not tested"
    table = own_n.table(study)
    rows = by_name(table, "N to 80 %", "prompts", "runs")
    assert rows["tp_sds"] == ["–", "–", "–"] and rows["tp_sds:iclr"][1:] == ["3", "3"]
    assert "tp_sds: no run of tp_sds has a score at every total of 10, 20" in table.notes[1]
    assert table.notes[-1].endswith("complete: tp_sds:iclr: 3.") and "of all runs of its N" in table.notes[-2]


def test_convergence_without_a_baseline_of_so_many_steps_has_rows_without_a_ratio(
    runs: Sweep, clip_folder: Path
) -> None:
    for prompt in PROMPTS[:3]:
        runs.add("tp_sds", prompt, 0, **steps(40))
    table = convergence.table(opened(runs, clip_folder))
    [row] = table.rows
    assert row[0] == "tp_sds" and [str(cell) for cell in row[2:5]] == ["–"] * 3 and str(row[6]) == "–"
    assert row[-2:] == [3, 3] and "so many steps: uniform_sds." in table.notes[-1]
    assert "at N = 20;" in own_n.table(opened(runs, clip_folder)).notes[0], "the baseline's own largest"


def test_counts_are_those_of_the_pairs_and_what_is_left_out_is_told(runs: Sweep, clip_folder: Path) -> None:
    complete = opened(runs, clip_folder)
    made = [convergence.table(complete), claims.table(complete), domains.table(complete)]
    assert [len(table.notes) for table in made] == [1, 1, 1]
    runs.add("tp_sds", PROMPTS[0], 2)
    runs.add("tp_sds", PROMPTS[3], 0)
    runs.add("linear_decay", PROMPTS[4], 0)
    study = opened(runs, clip_folder)
    table = convergence.table(study)
    rows = by_name(table, "ratio at 80 %", "area − baseline", "prompts", "runs")
    assert rows["tp_sds"][2:] == ["3", "6"] and rows["linear_decay"] == ["–", "–", "1", "1"]
    assert table.notes[1].endswith("complete: tp_sds: 2.") and "Areas are of all runs" in table.notes[2]
    table = claims.table(study)
    better = claimed(table)["better results than uniform SDS", "tp_sds", "last step"]
    assert (
        better[2:] == ["3", "2"]
        and "better results than uniform SDS (tp_sds, last step): 2" in table.notes[1]
    )
    assert domains.table(study).notes[1].endswith("complete: tp_sds (vehicles): 1; tp_sds (kitchen): 1.")
    assert power.seen(study)[0].notes[1].endswith("complete: tp_sds: 2.")
    assert "3 prompts decide nothing" in differences.decidable(study)[0], "as many as are compared"
