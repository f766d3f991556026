"""Choosing runs by words."""

import json
import re
import traceback
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.config import UserError
from harness.records import suites
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec, SuiteRef
from harness.sweep.grid import Suite, write_suite
from harness.sweep.local import _report
from harness.sweep.select import check_pools, select
from harness.sweep.status import blame, reading, sweep_status
from slurm.watch import why

SUITE = SuiteRef(name="s", sha256="a" * 64, size=2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for method, variant in (("tp_sds", ""), ("tp_sds", "iclr"), ("uniform_sds", "")):
        for seed in range(3):
            params = {"preset": variant} if variant else {}
            spec = RunSpec(
                method=method,
                variant=variant,
                params=params,
                params_set=tuple(params),
                prompt="a red bus" if seed else "a green Cup",
                seed=seed,
                suite=SUITE,
            )
            RunFolder.create(tmp_path, spec)
    return tmp_path


def _count(root: Path, *words: str) -> int:
    return len(select(root, words))


def test_words_narrow_the_choice(root: Path):
    assert _count(root) == 9
    assert _count(root, "method=tp_sds") == 6
    assert _count(root, "method=tp_sds:iclr") == 3
    assert _count(root, "seed=0,2") == 6
    assert _count(root, "prompt=CUP", "method=uniform_sds") == 1
    assert _count(root, "tp_sds-*-s1-*") == 2
    assert (_count(root, "suite=s"), _count(root, "suite=aaaa", "seed=1")) == (9, 3)
    assert (_count(root, "cfg_scale=20"), _count(root, "guidance.cfg_scale=20.0")) == (9, 9)
    assert _count(root, "clip_norm=none", "guidance.t_range=[0.02,0.98]", "weighting=one") == 9
    assert _count(root, "uniform") == 3
    (failed,) = select(root, ["uniform_sds-a-green"])
    failed.fail("no", 3)
    assert select(root, ["state=failed"])[0].id == failed.id and _count(root, "state=new") == 8


def test_words_narrow_a_status(root: Path):
    ids = {folder.id for folder in select(root, ["method=tp_sds:iclr", "seed=0-1"])}
    found = sweep_status(root, only=ids)
    assert [row.method for row in found.methods] == ["tp_sds:iclr"] and found.total.waiting == 2
    out = CliRunner().invoke(app, ["status", str(root), "method=tp_sds:iclr", "seed=0-1", "--json"]).output
    assert json.loads(out)["total"]["waiting"] == 2


def test_suites_have_words_that_choose_them(tmp_path: Path):
    refs = [SuiteRef(name=name, sha256=digit * 64, size=1) for name, digit in zip("stt", "abc", strict=True)]
    for seed, suite in enumerate([None, *refs, *refs[:1]]):
        spec = RunSpec(method="tp_sds", prompt="a red bus", seed=seed, suite=suite)
        RunFolder.create(tmp_path, spec).finish({})
        if suite:
            suites.keep(tmp_path, suite.name, suite.sha256, ["a red bus"])
    RunFolder.create(tmp_path, RunSpec(method="tp_sds", prompt="a cup", seed=9))  # it has not ended
    told = f"suite=s (2 runs), suite={'b' * 12} (1 run), suite={'c' * 12} (1 run)"
    with pytest.raises(UserError, match="no suite.*choose others: " + re.escape(told)):
        check_pools(select(tmp_path, []))
    pooled = [run for word in ("suite=s", "suite=t") for run in select(tmp_path, [word])]
    with pytest.raises(UserError, match="different pools: choose one of " + re.escape(told)):
        check_pools(pooled)
    check_pools(pooled, allow_mixed=True)
    check_pools(select(tmp_path, ["suite=" + "c" * 12]))
    assert (_count(tmp_path, "suite=none"), _count(tmp_path, "suite=t"), _count(tmp_path, "suite=s")) == (
        2,
        2,
        2,
    )
    assert suites.beside_others(tmp_path, "s", "a" * 64) == " suite=s"
    assert suites.beside_others(tmp_path, "t", "b" * 64) == f" suite={'b' * 12}"
    suites.keep(tmp_path / "one", "a b", "a" * 64, ["a red bus"])
    assert suites.beside_others(tmp_path / "one", "a b", "a" * 64) == ""


def test_a_sweep_ends_with_the_words_that_choose_its_suite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    one, other = Suite("coco", ("a red bus",)), Suite("prompts", ("a cup",))
    for suite in (one, other):
        write_suite(tmp_path, suite)
        _report(["a"], [], [], tmp_path, suite)
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"1 done; next: harness eval {tmp_path}"
    assert second == f"1 done; next: harness eval {tmp_path} suite=prompts"


def test_a_run_without_a_readable_spec_is_chosen_by_id_and_state_alone(root: Path):
    (run,) = select(root, ["uniform_sds-a-green"])
    run.fail("no", 3)
    (run.path / "spec.json").write_text('{"method": "uniform_sds", "see')
    assert [folder.id for folder in select(root, ["state=damaged"])] == [run.id]
    assert [folder.id for folder in select(root, [run.id])] == [run.id]
    assert _count(root) == 9 and _count(root, "method=uniform_sds") == 2


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("metod=tp_sds", "'method'"),
        ("state=dead", "state=dead"),
        ("cfg_scale=50", "fits 'cfg_scale=50'"),
        ("guidance.cfg_scal=50", "guidance.cfg_scale"),
        ("seed=x", "--seeds"),
        ("method=tp_sdz", "'method=tp_sdz'; did you mean 'tp_sds'"),
        ("suite=t", "'suite=t'; choose from s"),
        ("prompt=zebra", "fits 'prompt=zebra'"),
        ("no-such-run", "fits 'no-such-run'"),
    ],
)
def test_a_word_that_fits_nothing_is_one_line(root: Path, word: str, says: str):
    with pytest.raises(UserError, match=says) as caught:
        select(root, [word])
    assert "\n" not in str(caught.value)


def test_a_traceback_is_told_by_its_file_and_line(root: Path):
    code = compile("def broken():\n    return 1 // 0\n\nbroken()\n", "/theirs/method.py", "exec")
    try:
        exec(code)
    except ZeroDivisionError:
        detail = traceback.format_exc()
    (run,) = select(root, ["uniform_sds-a-green"])
    run.fail("ZeroDivisionError: by zero", 3, detail)
    told = dict(reading(run))
    run.log("failed: ZeroDivisionError: by zero")
    (root / "logs").mkdir()
    (root / "logs" / "workers.log").write_text(f"a warning\n{detail}")
    whole = dict(why(run))
    assert told["at"] == whole["at"] == "/theirs/method.py:2 in broken"
    assert (whole["state"], whole["reason"]) == ("failed at step 3 of 400", "ZeroDivisionError: by zero")
    assert whole["log"].splitlines()[1:] == ["a warning"] and "failed: " in whole["its own log"]
    assert told["traceback"].endswith("ZeroDivisionError: integer division or modulo by zero")
    assert told["status"] == "failed at step 3" and told["settings"] == "all at their defaults"
    assert blame("") == []
