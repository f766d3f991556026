"""A changed method.py is noticed: in the record, by the next sweep, in rows of their own."""

import json
from pathlib import Path

import pytest

from harness.config import UserError
from harness.distill.method import code_of
from harness.records.folder import RunFolder
from harness.sweep.plan import Plan, make_plan
from harness.sweep.status import sweep_status
from harness.sweep.versions import code_now, retry, settle
from tests import tinyruns

METHOD = '''"""Scaled SDS."""

import strength
from harness.distill.method import Method


class Scaled(Method):
    """SDS, scaled."""

    def gradient(self, ctx):
        return strength.SCALE * super().gradient(ctx)  # as it is
'''
STRENGTH = "SCALE = 2.0\n"


@pytest.fixture
def methods(tmp_path: Path) -> Path:
    folder = tmp_path / "methods" / "scaled"
    folder.mkdir(parents=True)
    (folder / "method.py").write_text(METHOD)
    (folder / "strength.py").write_text(STRENGTH)
    return folder.parent


def test_code_is_what_runs_of_a_method(methods: Path):
    def code() -> str:
        return code_of("scaled", [methods])["scaled"]

    first, folder = code(), methods / "scaled"
    (folder / "plots.py").write_text("print(1)\n")
    (folder / "method.py").write_text(
        METHOD.replace("  # as it is", "").replace('"""SDS, scaled."""', '"""Else."""')
    )
    assert code() == first
    (folder / "strength.py").write_text("from deeper.still import SCALE\n")
    imported = code()
    (folder / "deeper").mkdir()
    (folder / "deeper" / "still.py").write_text(STRENGTH)
    deeper = code()
    (folder / "deeper" / "still.py").write_text("SCALE = 3.0\n")
    (folder / "method.py").write_text(METHOD)
    assert len({first, imported, deeper, code()}) == 4
    (folder / "deeper" / "still.py").write_text("SCALE = (\n")
    assert code_of("uniform_sds@scaled", [methods]).keys() == {"uniform_sds", "scaled"}


def test_runs_of_another_version_are_told_kept_or_made_anew(methods: Path, tiny_prior: Path, tmp_path: Path):
    root = tmp_path / "runs"
    done, begun = tinyruns.create(root, tiny_prior, "scaled", runs=2, methods_dirs=[methods])
    dirs = {"methods_dirs": (str(methods),)}
    tinyruns.run(root, [done], **dirs)
    emit, stop = tinyruns.stop_after(4)
    tinyruns.advance(root, [begun], tinyruns.execution(**dirs), emit, stop)
    specs = [RunFolder(root / run).spec() for run in (done, begun)]

    def plan() -> Plan:
        return make_plan(root, specs, 1, asked=True, code=code_now([methods]))

    then = code_of("scaled", [methods])
    assert RunFolder(root / done).look().code == then and plan().outdated == {}
    assert not settle(root, plan(), "refuse")

    (methods / "scaled" / "strength.py").write_text("SCALE = 3.0\n")
    now = code_of("scaled", [methods])["scaled"]
    assert plan().outdated == {done: ["scaled"], begun: ["scaled"]}
    with pytest.raises(UserError, match=r"2 of 2 runs \(such as .*other code of scaled.*--keep .*--redo "):
        settle(root, plan(), "refuse")
    said: list[str] = []
    assert not settle(root, plan(), "keep", said.append) and "kept" in said[0]
    tinyruns.run(root, [begun], **dirs)  # what went on with other code is neither's
    assert RunFolder(root / begun).look().code == {"scaled": f"{then['scaled']}+{now}"}
    rows = {row.method for row in sweep_status(root).methods}
    assert rows == {f"scaled (code {then['scaled'][:6]}{more})" for more in ("", f"+{now[:6]}")}

    assert not settle(root, plan(), "redo", None)  # a dry run
    assert settle(root, plan(), "redo", said.append) and "made anew" in said[1]
    assert plan().new == [done, begun] and plan().outdated == {}
    assert len(list((root / "trash").glob(f"*/{done}/result.json"))) == 1


def test_failed_runs_of_a_mended_method_are_made_anew_where_they_are_tried_again(
    methods: Path, tiny_prior: Path, tmp_path: Path
):
    root = tmp_path / "runs"
    failed, done = tinyruns.create(root, tiny_prior, "scaled", runs=2, methods_dirs=[methods])
    specs = [RunFolder(root / run).spec() for run in (failed, done)]
    for run in (failed, done):
        (root / run / "env.json").write_text(json.dumps({"code": {"scaled": "other"}}))
    RunFolder(root / failed).fail("ValueError: a mistake", 1)
    RunFolder(root / done).finish({"steps": tinyruns.STEPS})

    def plan(retry_failed: bool, runs: int = 2) -> Plan:
        code = code_now([methods])
        return make_plan(root, specs[:runs], 1, retry_failed, asked=True, code=code)

    said: list[str] = []
    with pytest.raises(UserError, match=r"1 of 2 runs \(such as .*-s1-.*--keep "):
        settle(root, plan(True), "refuse", said.append)
    with pytest.raises(UserError, match=r"the run .*--keep .*--retry-failed makes the failed ones anew"):
        settle(root, plan(False, 1), "refuse", said.append)
    assert not settle(root, plan(True, 1), "refuse", None) and (root / failed).is_dir() and not said
    assert settle(root, plan(True), "keep", said.append)
    assert "-s1-" in said[0] and "kept" in said[0] and "failed, and was made with other code" in said[1]
    assert plan(True).new == [failed] and RunFolder(root / done).status() == "done"
    (aside,) = (root / "trash").glob("*/*")
    assert aside.name == failed and RunFolder(aside).failure()


def test_runs_that_are_let_be_tried_again_mix_no_versions(methods: Path, tiny_prior: Path, tmp_path: Path):
    root, folder = tmp_path / "runs", methods / "scaled"
    (folder / "method.py").write_text(
        METHOD.replace("return", "assert ctx.step_R.max() < 5, 'a mistake'\n        return")
    )
    mended, same, cancelled = tinyruns.create(root, tiny_prior, "scaled", runs=3, methods_dirs=[methods])
    dirs = {"methods_dirs": (str(methods),)}
    for run in (mended, same):
        tinyruns.run(root, [run], **dirs)
    emit, stop = tinyruns.stop_after(4)
    tinyruns.advance(root, [cancelled], tinyruns.execution(**dirs), emit, stop)
    RunFolder(root / cancelled).cancel()
    folders = [RunFolder(root / run) for run in (mended, same, cancelled)]
    specs = [each.spec() for each in folders]

    def states() -> list[str]:
        return [each.status() for each in folders]

    assert states() == ["failed", "failed", "cancelled"] and folders[0].checkpoint_step() == 3
    said: list[str] = []
    (methods / "scaled").rename(tmp_path / "scaled")  # as for who does not name the folder of methods
    assert retry(root, folders, code_now([]), said.append) == 0
    assert said.pop() == (
        f"3 of 3 runs (such as {mended}) left as before: --methods-dir names no folder of scaled"
    )
    (tmp_path / "scaled").rename(methods / "scaled")
    assert states() == ["failed", "failed", "cancelled"]

    assert retry(root, [folders[1]], code_now([methods]), said.append) == 1 and said == []
    assert states()[1] == "resume" and folders[1].checkpoint_step() == 3
    folders[1].fail("a mistake", 5)
    (folder / "method.py").write_text(METHOD)
    assert retry(root, [folders[0], folders[2]], code_now([methods]), said.append) == 1
    assert states() == ["new", "failed", "cancelled"] and folders[0].spec() == specs[0]
    (aside,) = (root / "trash").glob("*")
    assert said == [
        f"1 of 2 runs (such as {mended}) failed, and was made with other code of scaled: made anew; "
        f"what there was lies in {aside}",
        f"1 of 2 runs (such as {cancelled}) was cancelled, and made with other code of scaled: left as "
        "before; the same sweep command takes them up with --keep or --redo",
    ]
    assert RunFolder(aside / mended).failure()
    tinyruns.run(root, [mended], **dirs)
    assert folders[0].status() == "done" and folders[0].look().code == code_of("scaled", [methods])
    plan = make_plan(root, specs[:1], 1, asked=True, code=code_now([methods]))
    assert plan.done == [mended] and plan.outdated == {}
