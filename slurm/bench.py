"""`harness bench slurm`: planning, submitting, and a disturbed sweep through the test cluster.

Needs the cluster of slurm/testbed. Wall times of a shared machine; what has a bar is printed beside it.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from harness.config import Execution
from harness.console import Console
from harness.prompt import COCO
from harness.records.environment import own_code
from harness.records.files import make_folder
from harness.records.folder import RunFolder, run_folders
from harness.records.identity import run_id
from harness.sweep.display import duration
from harness.sweep.plan import make_plan
from harness.sweep.request import Request
from harness.sweep.status import sweep_status
from slurm import watch
from slurm.chaos import Chaos, testbed
from slurm.launches import in_queue, launches
from slurm.profile import Profile, load
from slurm.submit import Submission, submit

METHODS = "uniform_sds,linear_decay,tp_sds"
PLAN_RUNS, PLAN_SECONDS, SUBMIT_SECONDS, STATUS_SECONDS = 10_000, 2.0, 5.0, 2.0
STEPS = 12
STRIKE_SECONDS = 15.0
SAMPLE = 12  # runs that are compared with an undisturbed sweep, bit for bit


@dataclass(frozen=True)
class Timed:
    """Something done once: its wall seconds, and the bar they are held to."""

    name: str
    seconds: float
    bar: float

    @property
    def ok(self) -> bool:
        """Whether the bar is met."""
        return self.seconds < self.bar


def run(runs: int = 1000, console: Console | None = None) -> bool:
    """Measure and print; whether every bar is met and the disturbed sweep lost and doubled nothing."""
    console = console or Console()
    testbed()  # before anything is made
    folder = Path(tempfile.mkdtemp(prefix="slurm-bench-"))
    try:
        figures = [*plan_and_status(folder / "plan"), submission(folder / "submit")]
        table = Table("what", "seconds", "bar", "")
        for figure in figures:
            bar = (f"< {figure.bar:g}", "ok" if figure.ok else "missed")
            table.add_row(figure.name, f"{figure.seconds:.2f}", *bar)
        console.print(table)
        whole = disturbed(folder / "disturbed", runs, lambda line: console.print(line, soft_wrap=True))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return whole and all(figure.ok for figure in figures)


def timed(name: str, bar: float, action: Callable[[], Any]) -> Timed:
    """Do it once."""
    started = time.perf_counter()
    action()
    return Timed(name, time.perf_counter() - started, bar)


def plan_and_status(root: Path) -> list[Timed]:
    """10 000 runs: from the command line's words to packs, for new runs and for known ones; their status."""
    request = Request(prompts=COCO, methods=METHODS, seeds=f"0-{PLAN_RUNS // (153 * 3)}")
    _, specs = request.resolve()
    specs = specs[:PLAN_RUNS]
    many = f"{len(specs)} runs"
    plan = lambda: make_plan(root, request.resolve()[1][:PLAN_RUNS], 16)  # noqa: E731
    new = timed(f"plan of {many}, new", PLAN_SECONDS, plan)
    for spec in specs:
        RunFolder.create(root, spec)
    known = timed(f"plan of {many}, whose folders exist", PLAN_SECONDS, plan)
    sweep_status(root)
    return [new, known, timed(f"status of {many}, warm", STATUS_SECONDS, lambda: sweep_status(root))]


def submission(root: Path) -> Timed:
    """coco.txt × 3 methods × 5 seeds in packs of 16, from its words to Slurm's queue, and held there."""
    profile = load("testbed").model_copy(update={"pack": 16, "sbatch": {"hold": True}})

    request = Request(prompts=COCO, methods=METHODS, seeds="0-4")

    def held() -> None:
        submit(submission_of(root, request, profile), lambda line: None)

    figure = timed("submission of 2 295 runs in packs of 16", SUBMIT_SECONDS, held)
    watch.cancel(root, [folder.id for folder in run_folders(root)])
    return figure


def submission_of(root: Path, request: Request, profile: Profile) -> Submission:
    """A sweep on the test cluster, without a mirror."""
    suite, specs = request.resolve()
    execution = Execution(wandb="disabled", checkpoint_every=2, sweep=root.name, device="cpu")
    return Submission(root, suite, specs, execution, "testbed", profile, "harness bench slurm")


def disturbed(root: Path, runs: int, say: Callable[[str], None]) -> bool:
    """A sweep of so many runs of few steps while the cluster is disturbed; whether it ended whole."""
    settings = ("views.count=1", "views.azimuths=1", "views.heldout_elevation=none")
    prompts = max(runs // 8, 1)
    request = Request(
        prompts=COCO,
        methods="uniform_sds,tp_sds",
        seeds="0-3",
        steps=(STEPS,),
        limit=prompts,
        settings=settings,
    )
    sweep = submission_of(root, request, load("testbed").model_copy(update={"pack": 16}))
    make_folder(root)
    chaos = Chaos(root)
    started = struck = time.monotonic()
    submissions = 0
    while not _ended(root, len(sweep.specs)):
        if time.monotonic() - struck > STRIKE_SECONDS:
            chaos.strike()
            time.sleep(2.0)
            chaos.repair()
            struck = time.monotonic()
        if not in_queue(launches(root)):
            submissions += 1
            submit(sweep, lambda line: None)
        time.sleep(2.0)
    spent = time.monotonic() - started
    many = f"{len(sweep.specs)} runs of {STEPS} steps in {duration(spent)}"
    say(f"{many}, {submissions} submissions; {chaos.told()}")
    return _whole(root, sweep, say)


def _ended(root: Path, runs: int) -> bool:
    return sum(folder.status() in ("done", "failed") for folder in run_folders(root)) == runs


def _whole(root: Path, sweep: Submission, say: Callable[[str], None]) -> bool:
    """Every run done, its log whole, finished once, and a sample equal to an undisturbed sweep's."""
    problems = []
    for folder in run_folders(root):
        steps = [row["step"] for row in folder.metrics()]
        if folder.status() != "done":
            problems.append(f"{folder.id} is {folder.status()}: {(folder.failure() or {}).get('reason')}")
        elif steps != sorted(set(steps)) or steps[-1] != STEPS:
            problems.append(f"{folder.id} logged {steps}")
        elif sum(line.endswith("  done") for line in folder.log_lines(10_000)) > 1:
            problems.append(f"{folder.id} was finished more than once")
    problems += _differing(root, sweep)
    for line in problems[:10]:
        say(line)
    say(_shares(root))
    word = "nothing lost, nothing double" if not problems else f"{len(problems)} problems"
    say(f"{word}; {SAMPLE} runs compared with an undisturbed sweep")
    return not problems


def _differing(root: Path, sweep: Submission) -> list[str]:
    """Runs of a sample whose views, log or parameters differ from those of a sweep that nothing disturbs."""
    chosen = sweep.specs[:: max(len(sweep.specs) // SAMPLE, 1)][:SAMPLE]
    calm = root.with_name("calm")
    for spec in chosen:
        RunFolder.create(calm, spec)
    ids = [run_id(spec) for spec in chosen]
    code = (
        "import sys; from pathlib import Path; from harness.config import Execution\n"
        "from harness.distill.runner import advance\n"
        "aside = Execution(wandb='disabled', device='cpu')\n"
        "for run in sys.argv[2:]: advance(Path(sys.argv[1]), [run], aside)"
    )
    command = [sys.executable, "-c", code, str(calm), *ids]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | own_code())
    return [
        f"{run} differs from an undisturbed run"
        for run in ids
        if _content(calm / run) != _content(root / run)
    ]


def _content(path: Path) -> list[Any]:
    folder = RunFolder(path)
    rows = [{key: value for key, value in row.items() if key != "time"} for row in folder.metrics()]
    views = [folder.views_path(step).read_bytes() for step in folder.view_steps()]
    tensors, step = folder.load_checkpoint() or ({}, 0)
    return [rows, views, step, {name: value.numpy().tobytes() for name, value in tensors.items()}]


def _shares(root: Path) -> str:
    """How long a task takes to its first step, and what share of the allocation is between first and last."""
    attempts = [a for launch in launches(root) for found in launch.attempts.values() for a in found]
    whole = [a for a in attempts if a.get("first_step")]
    begins = [a["first_step"] - a["started"] for a in whole]
    useful = sum(a["last_step"] - a["first_step"] for a in whole)
    spent = sum(a.get("ended", a["seen"]) - a["started"] for a in attempts)
    return (
        f"{len(attempts)} starts of tasks; from a start to its first step {statistics.median(begins):.1f} s "
        f"(median); {100 * useful / spent:.0f} % of {duration(spent)} of allocations lie between a first and "
        "a last step"
    )
