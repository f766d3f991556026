from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from eval.sources.load import load_runs, method_labels
from harness.config import UserError
from tests.eval.conftest import PROMPTS, TOY, Sweep


def test_records_say_what_the_folders_say(runs: Sweep) -> None:
    runs.add("uniform_sds", PROMPTS[3], 0, end="failed")
    runs.add("uniform_sds", PROMPTS[4], 0, end="new")
    records, problems = load_runs(runs.root)
    assert len(records) == 14 and not problems
    assert [r.run_id for r in records] == sorted(r.run_id for r in records)
    failed = next(r for r in records if r.status == "failed")
    assert failed.failure == "non-finite gradient at step 13" and failed.view_steps == (10,)
    done = next(r for r in records if r.status == "done")
    assert (
        done.view_steps == (10, 20)
        and done.mark == "toy"
        and done.prior == "toy-sd"
        and done.suite == runs.suite.sha256
    )
    assert done.views(20).shape == (5, 16, 16, 3)


def test_a_run_that_never_loaded_its_random_prior_is_marked_by_its_card(tmp_path: Path) -> None:
    runs = Sweep(tmp_path / "runs")
    prior = tmp_path / "prior"
    prior.mkdir()
    (prior / "card.json").write_text('{"random": true}')
    guidance = TOY.guidance.model_copy(update={"prior": str(prior)})
    runs.add("tp_sds", PROMPTS[0], 0, end="new", config=TOY.model_copy(update={"guidance": guidance}))
    assert [record.mark for record in load_runs(runs.root)[0]] == ["RANDOM WEIGHTS"]


def test_an_unreadable_folder_is_told_and_does_not_stop_the_rest(runs: Sweep) -> None:
    victim = next(runs.root.glob("tp_sds-*"))
    (victim / "spec.json").write_text('{"method": ')
    records, problems = load_runs(runs.root)
    assert len(records) == 11 and len(problems) == 1 and victim.name in problems[0]


def test_no_runs_is_a_user_error(tmp_path: Path) -> None:
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError):
            load_runs(root)


def test_labels_tell_settings_apart_only_where_needed(runs: Sweep) -> None:
    assert set(method_labels(load_runs(runs.root)[0]).values()) == {"tp_sds", "uniform_sds"}
    runs.add("tp_sds", PROMPTS[0], 0, params={"m": 500}, params_set=("m",), variant="iclr")
    assert set(method_labels(load_runs(runs.root)[0]).values()) == {"tp_sds", "tp_sds:iclr", "uniform_sds"}
    runs.add("tp_sds", PROMPTS[0], 0, config=TOY.model_copy(update={"steps": 40}))
    assert len(set(method_labels(load_runs(runs.root)[0]).values())) == 3, "N is an axis, not a setting"
    other = TOY.model_copy(update={"optim": TOY.optim.model_copy(update={"lr": 0.5})})
    runs.add("uniform_sds", PROMPTS[0], 0, config=other)
    labels = set(method_labels(load_runs(runs.root)[0]).values())
    assert len(labels) == 4 and all("@" in label for label in labels)


def test_versions_of_a_method_are_rows_of_their_own(runs: Sweep) -> None:
    folders = sorted((run.folder for run in load_runs(runs.root)[0]), key=lambda folder: folder.id)

    def made_with(code: str, number: int, **more: str) -> set[str]:
        env = folders[number].env() or {}
        folders[number].save_env(env | {"code": {"tp_sds": code} | more})
        return set(method_labels(load_runs(runs.root)[0]).values())

    assert folders[0].id.startswith("tp_sds-")
    assert made_with("a" * 12, 0) == made_with("a" * 12, 1) == {"tp_sds", "uniform_sds"}
    versions = {"tp_sds (code aaaaaa)", "tp_sds (code bbbbbb)"}
    assert made_with("b" * 12, 2) == {"tp_sds", "uniform_sds"} | versions
    mixed = made_with(f"{'a' * 12}+{'b' * 12}", 3, **{"scene mine": "c" * 12})
    assert mixed == {"tp_sds", "uniform_sds", "tp_sds (code cccccc aaaaaa+bbbbbb)"} | versions


def test_loading_imports_no_torch() -> None:
    modules = "eval.sources.load, eval.statistics.convergence, eval.figures.contact_sheet"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
