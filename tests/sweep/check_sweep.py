"""A short real sweep on the embedded prior, killed and continued: `python -m tests.sweep.check_sweep`."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from harness.records.folder import run_folders

ROOT = Path("build/ci-runs")
STEPS = 40
SWEEP = [
    *("sweep", "prompts/smoke.txt", "--limit", "2", "--seeds", "0", "--steps", str(STEPS)),
    *("--checkpoint-every", "10", "--out", str(ROOT)),
]


def harness(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its output is shown and returned."""
    command = [sys.executable, "-m", "harness.cli", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(f"$ harness {' '.join(arguments)}\n{done.stdout}", end="", flush=True)
    return done


def kill_on_its_way(command: list[str], root: Path) -> None:
    """Start a sweep into `root` and SIGKILL it, and its worker, once a checkpoint is written."""
    sweep = subprocess.Popen([sys.executable, "-m", "harness.cli", *command], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not (checkpoints := sorted(root.glob("*/checkpoint.safetensors"))):
        assert sweep.poll() is None, f"the sweep ended by itself with {sweep.returncode}"
        assert time.monotonic() < deadline, "no checkpoint within ten minutes"
        time.sleep(0.02)
    worker = json.loads((checkpoints[0].parent / "lease.json").read_text())["pid"]
    sweep.send_signal(signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    sweep.wait()
    print("killed the sweep and its worker after the first checkpoint", flush=True)


def go_on(command: list[str]) -> None:
    """The same command again finishes what was killed."""
    done = harness(*command)
    assert done.returncode == 0 and " to resume" in done.stdout and " 0 to resume" not in done.stdout


def check_runs() -> None:
    """Every run is whole: done, all views, rows in order and finite."""
    folders = run_folders(ROOT)
    assert len(folders) == 8, f"{len(folders)} runs, not 4 methods × 2 prompts"
    for folder in folders:
        assert folder.status() == "done", f"{folder.id} is {folder.status()}"
        spec, rows = folder.spec(), folder.metrics()
        steps = [row["step"] for row in rows]
        assert steps == sorted(set(steps)) and steps[-1] == STEPS, f"{folder.id} logged {steps}"
        assert all(math.isfinite(value) for row in rows for value in row.values()), f"{folder.id}: not finite"
        assert folder.view_steps() == spec.config.views.steps(STEPS)
        views = folder.views(STEPS)
        assert views.shape[0] == spec.config.views.azimuths + 1 and views.std() > 1, (
            f"{folder.id}: blank views"
        )


def main() -> None:
    """Kill, continue, check, evaluate; an AssertionError says what is wrong."""
    shutil.rmtree(ROOT, ignore_errors=True)
    kill_on_its_way(SWEEP, ROOT)
    go_on(SWEEP)
    check_runs()
    again = harness(*SWEEP)
    assert again.returncode == 0 and "8 runs: 0 new, 0 to resume, 8 done" in again.stdout
    total = json.loads(harness("status", str(ROOT), "--json").stdout)["total"]
    assert (total["done"], total["failed"], total["steps"]) == (8, 0, 8 * STEPS)
    evaluation = harness("eval", str(ROOT))
    assert evaluation.returncode == 0 and "toy" in evaluation.stdout
    with open(ROOT / "eval" / "table.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) >= 3
    print("the sweep is as it should be: 8 runs killed, continued, checked and evaluated")


if __name__ == "__main__":
    main()
