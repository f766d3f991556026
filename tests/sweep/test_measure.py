"""The measurement before a sweep, what a worker imports, and its end: none of it ends or changes a sweep."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.config import Execution, UserError
from harness.distill.events import Advance, Setup
from harness.records import environment
from harness.records.environment import own_code, own_code_in_shell
from harness.sweep import grid, pool
from harness.sweep.pool import Pool
from tests import tinyruns

HEAD = '"""{}."""\nimport torch\nfrom harness.distill.method import Method\nclass M(Method):\n'
METHODS = {
    "float_t": "    def timesteps(self, step_R, total_R, draws_R):\n        return step_R / total_R\n",
    "oom": "    def gradient(self, ctx):\n        if len(ctx.seeds) > 1:\n"
    "            raise torch.OutOfMemoryError('no')\n        return super().gradient(ctx)\n",
}
IMAGE = {
    "scene": {"kind": "image", "resolution": tinyruns.LATENT},
    "views": {"count": 1, "azimuths": 1, "heldout_elevation": None},
}


def test_new_files_of_code_are_changes_and_others_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(tmp_path), *words],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "first")
    monkeypatch.setattr(environment, "_git", git)
    found = []
    for name in ("runs/spec.json", "methods/mine/method.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
        found.append(environment.code_version.__wrapped__()["dirty"])
    assert found == [False, True]


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder that nothing should be imported from; PYTHONPATH names it by accident."""
    folder = tmp_path / "hostile"
    (folder / "harness").mkdir(parents=True)
    for name in ("random.py", "typing_extensions.py", "harness/__init__.py", "submitit.py"):
        (folder / name).write_text("raise SystemExit('imported from the current folder')\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", f":{tmp_path / 'theirs'}:")
    return folder


def test_what_cannot_be_measured_is_told_and_left_out(
    hostile: Path, tiny_prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, body in METHODS.items():
        (tmp_path / "methods" / name).mkdir(parents=True)
        (tmp_path / "methods" / name / "method.py").write_text(HEAD.format(name) + body)
    dirs = [tmp_path / "methods"]
    choices = grid.choose_methods("float_t,oom,uniform_sds", [], dirs)
    suite = grid.make_suite("tiny", ["a red mug", "a green mug", "a blue mug"], "here")
    specs = grid.expand(suite, choices, [0], tinyruns.config(tiny_prior, **IMAGE))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    execution = Execution(wandb="disabled", device="cpu", methods_dirs=tuple(map(str, dirs)))
    with Pool(tmp_path / "runs", specs, execution, scratch=True) as scratch:
        measured = scratch.measure(scratch.plan())
    assert measured.rate > 0
    assert {spec.method: scratch.most(spec) for spec in specs} == {"float_t": 16, "oom": 1, "uniform_sds": 16}
    assert measured.notes[0].startswith("float_t cannot be measured: timesteps returned float32 [3]")
    assert (
        measured.notes[1] == "oom: out of memory with more than 1 runs in a pack" and len(measured.notes) == 2
    )
    assert not (tmp_path / "runs").exists() and [
        path.name for path in (tmp_path / "cache").rglob("*.json")
    ] == ["paces.json"]


def test_a_worker_that_cannot_be_started_says_why(
    tiny_prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ImportError: no such library' >&2\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(pool.sys, "executable", str(python))
    suite = grid.make_suite("tiny", ["a red mug"], "here")
    specs = grid.expand(suite, grid.choose_methods("uniform_sds", []), [0], tinyruns.config(tiny_prior))
    execution = Execution(wandb="disabled", device="cpu")
    with (
        Pool(tmp_path / "runs", specs, execution, scratch=True) as scratch,
        pytest.raises(UserError, match=r"ended with code 3: ImportError: no such library$"),
    ):
        scratch.measure(scratch.plan())


@pytest.mark.parametrize("kept", [0.5, 1.0])
def test_a_worker_whose_parent_is_gone_leaves_wherever_the_last_line_ends(
    kept: float, tmp_path: Path
) -> None:
    setup = Setup(root=tmp_path, execution=Execution(wandb="disabled", device="cpu")).model_dump_json()
    last = Advance(runs=[]).model_dump_json()
    lines = f"{setup}\n{last[: int(kept * len(last))]}"
    worker = [sys.executable, "-m", "harness.sweep.worker"]
    ended = subprocess.run(worker, input=lines, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0 and '"ready"' in ended.stdout


SHOWN = "import harness, sys, json; print(json.dumps([harness.__file__, sys.path]))"


def test_a_child_imports_this_package_and_nothing_from_where_it_is_started(
    hostile: Path, tmp_path: Path
) -> None:
    import harness

    lines = "\n".join([*own_code_in_shell(), f'exec "{sys.executable}" -c "$1"'])
    for command, env in (
        ([sys.executable, "-c", SHOWN], os.environ | own_code()),
        (["sh", "-c", lines, "sh", SHOWN], dict(os.environ)),
    ):
        said = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
        assert str(Path(harness.__file__)) in said and str(hostile) not in said, said
        assert str(tmp_path / "theirs") in said and '""' not in said  # what PYTHONPATH means is kept
