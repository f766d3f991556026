"""Real SIGKILLs at random moments, regrouped packs: the same files as an undisturbed sweep, bit for bit."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.check.runs import content
from harness.distill.events import EVENT, Advance, Refused, Returned, Setup, Stepped
from harness.records.folder import RunFolder
from tests import tinyruns


def worker(root: Path, ids: list[str]) -> subprocess.Popen:
    """The engine's own worker process, given one pack."""
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.sweep.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdin
    setup = Setup(root=root, execution=tinyruns.execution(threads=1))
    for message in (setup, Advance(runs=ids)):
        process.stdin.write(message.model_dump_json() + "\n")
        process.stdin.flush()
    return process


def first_step(process: subprocess.Popen) -> bool:
    """Wait until the pack has taken a step; False where it returned before."""
    assert process.stdout
    for line in process.stdout:
        event = EVENT.validate_json(line)
        if isinstance(event, Stepped | Returned | Refused):
            return isinstance(event, Stepped)
    return False


@pytest.mark.journey
@pytest.mark.parametrize("kills", [2, pytest.param(12, marks=pytest.mark.long)])
def test_killed_and_regrouped_is_the_same_as_undisturbed(
    kills: int, tiny_prior: Path, tmp_path: Path
) -> None:
    dice = random.Random(kills)
    steps = 12 * kills
    for root in ("undisturbed", "killed"):
        ids = tinyruns.create(tmp_path / root, tiny_prior, runs=3, steps=steps)
    tinyruns.run(tmp_path / "undisturbed", ids, threads=1)

    killed = 0
    for _ in range(kills):
        left = [run for run in ids if RunFolder(tmp_path / "killed" / run).status() != "done"]
        dice.shuffle(left)
        process = worker(tmp_path / "killed", left[: dice.randint(1, len(left))])
        if first_step(process):
            time.sleep(dice.uniform(0.0, 0.6))
            killed += process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert killed >= min(kills, 2)
    tinyruns.run(tmp_path / "killed", ids, threads=1)

    for run in ids:
        found = content(RunFolder(tmp_path / "killed" / run))
        assert found["status"] == "done"
        assert found == content(RunFolder(tmp_path / "undisturbed" / run))
    leftovers = [path for path in (tmp_path / "killed").rglob("*") if path.name.endswith(".tmp")]
    assert not leftovers
