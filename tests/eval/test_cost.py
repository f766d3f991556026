"""Costs measured side by side: what of a shared machine cancels, and where they are shown."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.command import open_runs
from eval.statistics.convergence import ratio_to_baseline
from eval.tables import convergence, cost, own_n
from eval.tables.cost import Costs
from eval.tables.rows import rng
from eval.tables.table import Number
from harness.config import UserError
from harness.records.costs import FILE, MethodCost, SideBySide, keep_costs, read_costs
from harness.records.folder import RunFolder
from tests.eval.conftest import PROMPTS, TOY, Sweep


def measured(**seconds: list[float]) -> SideBySide:
    methods = {name: MethodCost(nfe=2, seconds=tuple(rounds)) for name, rounds in seconds.items()}
    return SideBySide(machine="m", device="cpu", threads=2, pack=4, methods=methods)


def costs(**seconds: list[float]) -> Costs:
    return Costs(measured(**seconds), {name: name for name in seconds})


loads = st.lists(st.floats(0.5, 20), min_size=3, max_size=9)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(loads, st.floats(0.2, 5))
def test_a_load_that_all_methods_share_cancels(load: list[float], factor: float) -> None:
    base = [0.1 * x for x in load]
    found = costs(uniform_sds=base, mine=[factor * x for x in base]).ratio("mine", "uniform_sds")
    assert (found.value, found.low, found.high) == pytest.approx((factor,) * 3, nan_ok=True) or (
        found.value == pytest.approx(factor) and np.isnan(found.low)
    )


def test_one_disturbed_round_moves_no_ratio_far() -> None:
    base = [0.100, 0.101, 0.099, 0.100, 0.102, 0.098, 0.100, 0.101, 0.099]
    mine = [0.100, 0.100, 0.100, 1.300, 0.100, 0.100, 0.100, 0.100, 0.100]
    ratio = costs(uniform_sds=base, mine=mine).ratio("mine", "uniform_sds")
    assert ratio.value == pytest.approx(1, abs=0.02) and 0.97 < ratio.low < 1 < ratio.high < 1.03


def test_the_interval_of_a_ratio_covers() -> None:
    """Nine noisy rounds of methods that cost the same, 300 times."""
    draws = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        base, mine = draws.lognormal(0, 0.1, (2, 9))
        found = costs(uniform_sds=list(base), mine=list(mine)).ratio("mine", "uniform_sds")
        hits += found.low <= 1 <= found.high
    assert hits / 300 > 0.92


def test_the_last_measurement_that_has_all_methods_counts(tmp_path: Path) -> None:
    assert read_costs(tmp_path) == []
    keep_costs(tmp_path, measured(a=[1.0], b=[1.0], c=[1.0]))
    keep_costs(tmp_path, measured(a=[2.0], b=[2.0]))
    assert [set(one.methods) for one in read_costs(tmp_path)] == [{"a", "b"}, {"a", "b", "c"}]
    keep_costs(tmp_path, measured(a=[3.0], b=[3.0], c=[3.0]))
    [last] = read_costs(tmp_path)
    assert last.methods["a"].seconds == (3.0,)
    for wrong in ('[{"machine": "m"}]', "7"):
        (tmp_path / FILE).write_text(wrong)
        with pytest.raises(UserError, match=r"costs\.json: .*; delete it"):
            read_costs(tmp_path)
    with pytest.raises(ValueError, match="equally many rounds"):
        measured(a=[1.0], b=[1.0, 2.0])
    with pytest.raises(ValueError, match="greater than 0"):
        measured(a=[0.0])


def study_of(runs: Sweep, clip_folder: Path):
    return open_runs(runs.root, clip=str(clip_folder), device="cpu", samples=0)


def test_the_clocks_of_runs_do_not_reach_the_tables(runs: Sweep, clip_folder: Path) -> None:
    """Packs at other loads: one method's runs took ten times as long for the same steps."""
    for folder in runs.root.glob("tp_sds-*/metrics.jsonl"):
        folder.write_text(folder.read_text().replace('"time": ', '"time": 1'))
    bare = convergence.table(study_of(runs, clip_folder))
    assert {row[1] for row in bare.rows} == {"step"} and "No rows of wall time" in bare.notes[0]
    assert "harness bench methods RUNS" in bare.notes[0]
    runs.timed(tp_sds=[0.1, 0.2, 0.3], uniform_sds=[0.1, 0.2, 0.3])
    steps, seconds = convergence.table(study_of(runs, clip_folder)).rows[::2]
    assert seconds[1] == "wall time" and list(map(str, seconds[2:5])) == list(map(str, steps[2:5]))


def test_a_dearer_step_is_told_in_seconds_and_evaluations(runs: Sweep, clip_folder: Path) -> None:
    runs.timed(tp_sds=[0.3, 0.33, 0.27], uniform_sds=[0.1, 0.1, 0.1], nfe={"tp_sds": 6})
    study = study_of(runs, clip_folder)
    base, mine = cost.table(study).rows
    assert base[:2] == ["uniform_sds", "2"] and mine[:2] == ["tp_sds", "6"]
    assert isinstance(mine[3], Number) and mine[3].value == pytest.approx(3)
    assert 2.69 < mine[3].low < 3 < mine[3].high < 3.31 and mine[4] == "120"
    frames = convergence.convergence_frames(study)
    assert set(frames) == {"step", "wall time", "NFE"}
    ratios = {
        name: ratio_to_baseline(frame, "tp_sds", "uniform_sds", rng(), x=axis).value
        for name, (axis, frame) in frames.items()
    }
    assert ratios["wall time"] == pytest.approx(3 * ratios["step"]) == pytest.approx(ratios["NFE"])
    rows = {row[1]: row for row in convergence.table(study).rows if row[0] == "tp_sds"}
    adjusted = [[cast(Number, rows[name][at]).value for at in (7, 8)] for name in ("step", "NFE")]
    assert adjusted == [[0.25, 0.5]] * 2, "Holm over the rows of all readings"
    by_step, by_time = (rows[name][2] for name in ("step", "wall time"))
    assert isinstance(by_step, Number) and isinstance(by_time, Number)
    assert by_time.low < 3 * by_step.low + 1e-9 and by_time.high > 3 * by_step.high, "its own error is in it"


def test_evaluations_are_those_that_the_runs_counted(runs: Sweep, clip_folder: Path) -> None:
    runs.timed(nfe={"tp_sds": 2})
    for number, folder in enumerate(sorted(runs.root.glob("tp_sds-*"))):
        RunFolder(folder).append_metrics([{"step": 20, "time": 2.0, "nfe": 100 + 20 * (number % 2)}])
    base, mine = cost.table(study_of(runs, clip_folder)).rows
    assert base[:2] == ["uniform_sds", "2"] and mine[:2] == ["tp_sds", "5.5"]


def test_runs_with_their_own_n_are_told_in_brackets(runs: Sweep, clip_folder: Path) -> None:
    with pytest.raises(UserError, match="need several N"):
        own_n.table(study_of(runs, clip_folder))
    for prompt in PROMPTS[:3]:
        for seed in (0, 1):
            for method in ("tp_sds", "uniform_sds"):
                shows = prompt if method == "tp_sds" else PROMPTS[4]
                runs.add(method, prompt, seed, shows=shows, config=TOY.model_copy(update={"steps": 10}))
    base, mine = own_n.table(study_of(runs, clip_folder)).rows
    assert base[0] == "uniform_sds" and str(base[1]).startswith("0.0") and str(mine[1]).startswith("100.0")
    # One of the baseline's six runs is wrong at N = 20: its level there is 83 %.
    assert base[3] == "10–20 [10–20]" and mine[3] == "≤ 10 [≤ 10]"
    assert base[6] == "1" and mine[6] == "≤ 1.00 [≤ 1.00]"
