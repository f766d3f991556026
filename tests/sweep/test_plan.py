"""Plans: what a sweep finds done, and the packs it makes of the rest."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from harness.config import Config, UserError
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec, run_id
from harness.sweep.grid import Suite
from harness.sweep.local import _report as report
from harness.sweep.plan import make_plan, split
from harness.sweep.select import find_run
from harness.sweep.status import describe, sweep_status


def _specs(methods: str = "ab", seeds: int = 4, **config) -> list[RunSpec]:
    return [
        RunSpec(method=m, prompt="a red bus", seed=s, config=Config(**config))
        for m in methods
        for s in range(seeds)
    ]


SUITE = Suite("one", ("a red bus",))


def test_what_comes_next_is_what_can_be_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = RunFolder.create(tmp_path, _specs("a", 1)[0])
    run.fail("ValueError: a mistake", 1)
    assert report([], [run.id], [], tmp_path, SUITE) == 1
    assert capsys.readouterr().out.endswith(f"; next: harness status {tmp_path} --why {run.id}\n")
    assert report(["a"], [run.id], [], tmp_path, SUITE) == 1
    assert capsys.readouterr().out.endswith(f"; next: harness eval {tmp_path}\n")
    assert report([], [], ["a"], tmp_path, SUITE) == 1 and "next" not in capsys.readouterr().out


def test_runs_are_sorted_by_their_folders(tmp_path: Path):
    specs = _specs("a", 5)
    folders = [RunFolder.create(tmp_path, spec) for spec in specs]
    folders[0].finish({})
    folders[1].fail("diverged", 3)
    save_file(
        {"x": torch.zeros(1)}, folders[2].path / "checkpoint.safetensors", metadata={"step": "100"}
    )  # it goes on from here, whatever step it had been at
    folders[2].save_state(step=130, total=400)
    held = RunFolder(folders[3].path).acquire("test")
    plan = make_plan(tmp_path, specs, pack=16)
    ids = [folder.id for folder in folders]
    assert (plan.done, plan.failed, plan.resume, plan.running, plan.new) == tuple([i] for i in ids)
    assert plan.total == 5 and plan.steps_left == {ids[2]: 300, ids[4]: 400}
    assert [sorted(pack) for pack in plan.packs] == [sorted([ids[2], ids[4]])]
    assert "1 to resume" in plan.summary() and "700 steps" in plan.summary()

    again = make_plan(tmp_path, specs, pack=16, retry_failed=True)
    assert again.failed == [] and sorted(again.resume) == sorted([ids[1], ids[2]])

    status = sweep_status(tmp_path)
    assert (status.total.done, status.total.running, status.total.waiting, status.total.failed) == (
        1,
        1,
        2,
        1,
    )
    assert status.failures == [{"run": ids[1], "step": 3, "reason": "diverged"}]
    assert held
    held.release()


def test_planning_writes_nothing(tmp_path: Path):
    make_plan(tmp_path / "runs", _specs(), pack=2)
    assert list(tmp_path.iterdir()) == []


def test_a_pack_holds_one_method_and_one_config(tmp_path: Path):
    specs = _specs("ab", 5) + _specs("a", 3, steps=7)
    plan = make_plan(tmp_path, specs, pack=4)
    by_id = {run_id(spec): spec for spec in specs}
    assert sorted(plan.todo) == sorted(by_id)
    for pack in plan.packs:
        assert len({(by_id[run].method, by_id[run].config.steps) for run in pack}) == 1 and len(pack) <= 4
    assert sorted(map(len, make_plan(tmp_path, _specs("a", 8), pack=16, slots=2).packs)) == [4, 4]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(1, 16))
def test_splits_are_even_and_complete(left: list[int], most: int):
    steps_left = {f"r{k}": n for k, n in enumerate(left)}
    packs = split(list(steps_left), most, steps_left)
    assert sorted(run for pack in packs for run in pack) == sorted(steps_left)
    sizes = [len(pack) for pack in packs]
    assert max(sizes) <= most and max(sizes) - min(sizes) <= 1 and len(packs) == -(-len(left) // most)


def test_a_default_that_changed_without_a_new_id_is_refused(tmp_path: Path):
    spec = _specs("a", 1)[0].model_copy(update={"params": {"m1": 800.0}})
    RunFolder.create(tmp_path, spec)
    changed = spec.model_copy(update={"params": {"m1": 700.0}})
    assert run_id(changed) == run_id(spec)
    with pytest.raises(UserError, match=r"params m1 = 800\.0, which is now 700\.0"):
        make_plan(tmp_path, [changed], pack=1)
    relabelled = spec.model_copy(update={"variant": "v1"})
    assert make_plan(tmp_path, [relabelled], pack=1).new


def test_a_setting_that_a_method_gains_leaves_its_runs_alone(tmp_path: Path):
    spec = _specs("a", 1)[0]
    RunFolder.create(tmp_path, spec)
    gained = spec.model_copy(update={"params": {"t": None}})
    assert run_id(gained) == run_id(spec) and make_plan(tmp_path, [gained], pack=1).new


def test_runs_are_found_by_a_part_of_their_name(tmp_path: Path):
    folders = [RunFolder.create(tmp_path, spec) for spec in _specs("ab", 1)]
    assert find_run([folders[0].id[-8:]], tmp_path).id == folders[0].id
    assert find_run([str(folders[1].path)], tmp_path / "elsewhere").id == folders[1].id
    assert describe(folders[0])["status"] == "new"
    with pytest.raises(UserError, match="did you mean"):
        find_run(["a-red-buss0"], tmp_path)
    assert find_run(["method=b", "prompt=BUS"], tmp_path).id == folders[1].id
    with pytest.raises(UserError, match="fits 2 runs, such as"):
        find_run(["red-bus"], tmp_path)
    with pytest.raises(UserError, match="holds no runs"):
        (tmp_path / "empty").mkdir()
        sweep_status(tmp_path / "empty")
