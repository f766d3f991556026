"""Whole sweeps through the command line on a tiny prior: stopped, killed, doubled, out of memory, failing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.check.runs import content
from harness.records.folder import RunFolder, run_folders
from harness.threads import CHOICES
from tests import tinyruns

PROMPTS = ("a red mug", "a green mug", "a blue mug")
STEPS = 60


def _command(prior: Path, root: Path, *more: str) -> list[str]:
    suite = root.parent / "tiny.txt"
    suite.write_text("\n".join(PROMPTS))
    scene = tinyruns.config(prior)
    settings = [
        f"guidance.prior={prior}",
        f"guidance.microbatch={scene.guidance.microbatch}",
        *(f"scene.{k}={v}" for k, v in scene.scene.model_dump(exclude_defaults=True).items()),
        *(f"views.{k}={v}" for k, v in scene.views.model_dump(exclude_defaults=True).items()),
    ]
    flags = [word for setting in settings for word in ("--set", setting)]
    return [
        *(
            sys.executable,
            "-m",
            "harness.cli",
            "sweep",
            str(suite),
            "--out",
            str(root),
            "--steps",
            str(STEPS),
        ),
        *("--wandb", "disabled", "--checkpoint-every", "7", "--device", "cpu"),
        *flags,
        *more,
    ]


STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _nothing_is_left_running() -> Iterator[None]:
    yield
    for process in STARTED:
        process.kill()  # its worker sees the end of its input, and leaves
        process.wait()
    STARTED.clear()


def _start(command: list[str], **environment: str) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if name not in CHOICES}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=clean | environment
    )
    STARTED.append(process)
    return process


def _run(command: list[str], **environment: str) -> tuple[int, str]:
    process = _start(command, **environment)
    out, _ = process.communicate(timeout=900)
    return process.returncode, out


def _wait(condition: Callable[[], object], seconds: float = 900) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def _progress(root: Path) -> int:
    """Rows written so far, over all runs."""
    return sum(len(folder.metrics()) for folder in run_folders(root)) if root.is_dir() else 0


def _worker(root: Path) -> int:
    """The process that holds a run, or 0."""
    for folder in run_folders(root):
        try:
            return json.loads((folder.path / "lease.json").read_text())["pid"]
        except (FileNotFoundError, ValueError):
            continue
    return 0


def _contents(root: Path) -> dict[str, dict]:
    return {folder.id: content(folder) for folder in run_folders(root)}


@pytest.fixture(scope="module")
def undisturbed(tiny_prior: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed") / "runs"
    code, out = _run(_command(tiny_prior, root, "--methods", "uniform_sds,tp_sds"), OMP_DISPLAY_ENV="TRUE")
    assert code == 0, out
    assert "6 runs: 6 new" in out and "6 done" in out
    return root


def test_a_finished_sweep_has_nothing_left_to_do(undisturbed: Path, tiny_prior: Path):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()}
    code, out = _run(_command(tiny_prior, undisturbed, "--methods", "uniform_sds,tp_sds"))
    assert code == 0 and "6 runs: 0 new, 0 to resume, 6 done" in out
    assert before == {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()}
    for folder in run_folders(undisturbed):
        assert folder.status() == "done" and folder.view_steps() == [20, 40, 60]
        assert not (folder.path / "lease.json").exists()


def test_the_threads_of_a_worker_sleep_while_they_wait(undisturbed: Path):
    told = (undisturbed / "logs" / "workers.log").read_text()
    if "_OPENMP" not in told:
        pytest.skip("this OpenMP does not tell its settings")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in told


@pytest.mark.journey
def test_interrupted_killed_and_doubled_it_ends_with_the_same_files(
    undisturbed: Path, tiny_prior: Path, tmp_path: Path
):
    root = tmp_path / "runs"
    # Packs of two: what is left after each disturbance is grouped anew.
    command = _command(tiny_prior, root, "--methods", "uniform_sds,tp_sds", "--pack", "2")

    sweep = _start(command)
    _wait(lambda: _progress(root) > 4)
    sweep.send_signal(signal.SIGINT)
    out, _ = sweep.communicate(timeout=900)
    assert sweep.returncode == 130 and "stopped" in out, out
    states = [folder.status() for folder in run_folders(root)]
    assert "running" not in states and "failed" not in states and "resume" in states

    sweep = _start(command)
    seen = _progress(root)
    _wait(lambda: _progress(root) > seen + 4)
    worker = _worker(root)
    os.kill(sweep.pid, signal.SIGKILL)
    sweep.communicate()
    # Nobody is left to talk to: the worker checkpoints and leaves.
    _wait(lambda: not Path(f"/proc/{worker}").exists() or not _worker(root))

    both = [_start(command), _start(command)]
    seen = _progress(root)
    _wait(lambda: _progress(root) > seen + 4)
    worker = _worker(root)
    assert worker
    os.kill(worker, signal.SIGKILL)
    outs = [process.communicate(timeout=900)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    assert any("was killed by signal 9" in out for out in outs)
    assert _contents(root) == _contents(undisturbed)


HUNGRY = '''"""A method that needs more memory than there is for packs of more than two runs."""

import torch

from harness.distill.method import Method


class Hungry(Method):
    def timesteps(self, step_R, total_R, draws_R):
        if len(step_R) > 2:
            raise torch.OutOfMemoryError("no")
        return super().timesteps(step_R, total_R, draws_R)
'''

BROKEN = '''"""A method that fails."""

from harness.distill.method import Method


class Broken(Method):
    def gradient(self, ctx):
        raise ZeroDivisionError("broken on purpose")
'''


def _method(folder: Path, name: str, source: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "method.py").write_text(source)


def test_out_of_memory_halves_the_packs_goes_on_and_is_remembered(
    tiny_prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from harness.config import Execution
    from harness.presets import preset
    from harness.sweep import grid
    from harness.sweep.display import Display
    from harness.sweep.fits import AUTO_PACK
    from harness.sweep.pool import Pool

    _method(tmp_path / "methods", "hungry", HUNGRY)
    choices = grid.choose_methods("hungry,uniform_sds", [], [tmp_path / "methods"])
    suite = grid.make_suite("tiny", PROMPTS, "here")
    specs = grid.expand(suite, choices, [0, 1], tinyruns.config(tiny_prior))
    hungry, plain = ([spec for spec in specs if spec.method == name] for name in ("hungry", "uniform_sds"))
    root = tmp_path / "runs"
    for spec in specs:
        RunFolder.create(root, spec)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    execution = Execution(wandb="disabled", device="cpu", methods_dirs=(str(tmp_path / "methods"),))
    with Pool(root, specs, execution) as pool:
        outcome = pool.run(Display(12, 12 * tinyruns.STEPS))
    assert len(outcome.done) == 12 and not outcome.failed and not outcome.left
    assert pool.most(hungry[0]) in (1, 2) and pool.most(plain[0]) == AUTO_PACK["cpu"]
    with Pool(tmp_path / "later", specs, execution) as later:
        assert [later.most(spec) for spec in specs] == [pool.most(spec) for spec in specs]
    other = [spec.model_copy(update={"config": preset("paper")}) for spec in hungry]
    with Pool(tmp_path / "other", other, execution) as unlike:
        assert unlike.most(other[0]) == AUTO_PACK["cpu"]
    with Pool(tmp_path / "told", specs, execution.model_copy(update={"pack": 5})) as told:
        assert {told.most(spec) for spec in specs} == {5}


@pytest.mark.journey
def test_failed_runs_are_listed_and_retried_only_when_asked(tiny_prior: Path, tmp_path: Path):
    from harness.config import Execution
    from harness.sweep import grid
    from harness.sweep.display import Display
    from harness.sweep.pool import Pool

    _method(tmp_path / "methods", "broken", BROKEN)
    suite = grid.make_suite("tiny", PROMPTS, "here")
    root = tmp_path / "runs"
    dirs = [tmp_path / "methods"]
    choices = grid.choose_methods("broken,uniform_sds", [], dirs)
    specs = grid.expand(suite, choices, [0], tinyruns.config(tiny_prior), suite.prompts[:1])
    folders = {spec.method: RunFolder.create(root, spec) for spec in specs}
    execution = Execution(wandb="disabled", device="cpu", methods_dirs=tuple(map(str, dirs)))

    def sweep() -> tuple[int, int]:
        with Pool(root, specs, execution) as pool:
            outcome = pool.run(Display(2, 2 * tinyruns.STEPS))
        return len(outcome.done), len(outcome.failed)

    assert sweep() == (1, 1)
    failure = folders["broken"].failure()
    assert failure and "broken on purpose" in failure["reason"]
    _method(
        tmp_path / "again",
        "broken",
        BROKEN.replace('raise ZeroDivisionError("broken on purpose")', "return ctx.x_RCHW * 0"),
    )
    execution = Execution(wandb="disabled", device="cpu", methods_dirs=(str(tmp_path / "again"),))
    assert sweep() == (1, 1)
    assert folders["broken"].forget_failure()
    assert sweep() == (2, 0)


def test_a_dry_run_writes_nothing(tiny_prior: Path, tmp_path: Path):
    code, out = _run(_command(tiny_prior, tmp_path / "runs", "--dry-run", "--methods", "tp_sds"))
    assert code == 0 and "3 runs: 3 new" in out and "steps/s (" in out
    assert not (tmp_path / "runs").exists()


def test_a_missing_prior_is_one_line_before_anything_starts(tmp_path: Path):
    code, out = _run(_command(tmp_path / "no-such-prior", tmp_path / "runs", "--methods", "tp_sds"))
    errors = [line for line in out.splitlines() if line.startswith("harness: ")]
    assert code == 2 and len(errors) == 1 and "no-such-prior" in errors[0]
