"""Sweeps on a real cluster, disturbed in every way that clusters disturb them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.check.runs import content
from harness.records.folder import RunFolder, run_folders
from slurm.launches import launches
from tests import tinyruns
from tests.slurm.testbed import Cluster, is_running

PROFILE = """
cpus = 1
mem = "1500M"
time = 30
device = "cpu"
gpus_per_node = 1
environment = {{ OMP_NUM_THREADS = "1" }}
{more}
"""


SLOW = '''"""Uniform SDS that takes its time."""

import time

from harness.distill.method import Method


class Slow(Method):
    def gradient(self, ctx):
        time.sleep(1.0)
        return super().gradient(ctx)
'''


class Sweep:
    """One suite of prompts on the tiny prior, given to a cluster by the command line."""

    def __init__(self, cluster: Cluster, prior: Path, folder: Path, prompts: int = 4, steps: int = 60):
        self.cluster = cluster
        self.root = folder / "runs"
        self.folder = folder
        self.suite = folder / "suite.txt"
        self.suite.write_text("\n".join(f"a mug number {k}" for k in range(prompts)))
        config = tinyruns.config(prior)
        settings = [
            f"guidance.prior={prior}",
            f"guidance.microbatch={config.guidance.microbatch}",
            *(f"scene.{k}={v}" for k, v in config.scene.model_dump(exclude_defaults=True).items()),
            *(f"views.{k}={v}" for k, v in config.views.model_dump(exclude_defaults=True).items()),
        ]
        self.flags = [word for setting in settings for word in ("--set", setting)]
        self.flags += ["--steps", str(steps), "--wandb", "disabled", "--checkpoint-every", "5"]

    def harness(self, *words: str, code: int = 0) -> str:
        """A command's output; it must end with this exit code."""
        done = subprocess.run(
            [sys.executable, "-m", "harness.cli", *words],
            env=self.cluster.env | {"PYTHONPATH": os.getcwd()},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def sweep(self, *more: str, code: int = 0, root: Path | None = None) -> str:
        where = ["--out", str(root or self.root), *self.flags]
        return self.harness("sweep", str(self.suite), *where, *more, code=code)

    def submit(self, *more: str, profile: str = "", code: int = 0) -> str:
        path = self.folder / "site.toml"
        path.write_text(PROFILE.format(more=profile))
        return self.sweep("--slurm", str(path), *more, code=code)

    def states(self) -> list[str]:
        return [folder.status() for folder in run_folders(self.root)]

    def done(self) -> bool:
        """Every run is done, and every task has told how it ended."""
        return set(self.states()) == {"done"} and not self.queue()

    def queue(self) -> dict[str, str]:
        """Array tasks of this sweep in the queue, by id."""
        names = ",".join(array.name for launch in launches(self.root) for array in launch.arrays)
        lines = self.cluster.run("squeue", "-h", "-r", "--name", names, "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def wait(self, until: Callable[[], object], seconds: float = 300) -> None:
        """Until it is true; an AssertionError with the logs after so many seconds."""
        try:
            self.cluster.wait(until, seconds)
        except TimeoutError as error:
            raise AssertionError(f"{self.states()}\n{error}\n{self.logs()}") from None

    def logs(self) -> str:
        """The ends of all tasks' logs."""
        return "\n".join(
            f"== {path.name}\n{path.read_text()[-3000:]}" for path in self.root.glob("slurm/*/jobs/*.out")
        )

    def started(self) -> int:
        """Runs that have logged a step."""
        return sum(bool(folder.metrics()) for folder in run_folders(self.root))

    def undisturbed(self, *more: str) -> dict[str, dict]:
        """The contents of the same sweep on this machine, in peace; one thread a worker, as in the tasks."""
        root = self.folder / "undisturbed"
        self.sweep(*more, "--jobs", "2", root=root)
        return self.contents(root)

    def contents(self, root: Path | None = None) -> dict[str, dict]:
        root = root or self.root
        return {folder.id: content(folder) for folder in run_folders(root)}

    def attempts(self) -> list[dict]:
        return [
            attempt
            for launch in launches(self.root)
            for attempts in launch.attempts.values()
            for attempt in attempts
        ]


@pytest.fixture
def sweep(cluster: Cluster, tiny_prior: Path, tmp_path: Path) -> Sweep:
    return Sweep(cluster, tiny_prior, tmp_path)


def test_disturbed_in_every_way_it_ends_as_an_undisturbed_one(
    cluster: Cluster, tiny_prior: Path, tmp_path: Path
):
    sweep = Sweep(cluster, tiny_prior, tmp_path, prompts=4, steps=300)
    methods = ("--methods", "uniform_sds,tp_sds", "--pack", "1")
    submit = lambda: sweep.submit(*methods, "--array-parallelism", "6")  # noqa: E731
    assert "8 tasks, 8 runs" in submit()
    assert "8 queued" in submit() or "running elsewhere" in submit()
    assert len(sweep.queue()) == 8, "submitting again must not add to the queue"

    # One task that waits is cancelled; nobody will hear of it again.
    waiting = [job for job, state in sweep.queue().items() if state == "PENDING"]
    assert waiting
    cluster.scancel(waiting[-1])

    sweep.wait(lambda: sweep.started() >= 4)
    by_node: dict[str, list[dict]] = {}
    for attempt in sweep.attempts():
        by_node.setdefault(attempt["node"], []).append(attempt)

    # A node loses its power; elsewhere a task is requeued from outside, and a worker is killed.
    victim = next(iter(by_node))
    others = [attempt for node, found in by_node.items() if node != victim for attempt in found]
    assert others, f"all tasks are on {victim}"
    cluster.kill_node(victim)
    cluster.scontrol("requeue", others[0]["job"])
    held = [RunFolder(folder.path).path / "lease.json" for folder in run_folders(sweep.root)]
    pids = {json.loads(path.read_text())["pid"] for path in held if path.exists()}
    workers = [pid for pid in pids if is_running(pid)]
    assert workers
    os.kill(workers[-1], signal.SIGKILL)

    cluster.restart_controller(signal.SIGKILL)  # which also brings the node back
    for _ in range(6):
        sweep.wait(lambda: not sweep.queue(), seconds=400)
        if sweep.done():
            break
        assert submit(), "the same command goes on with what is missing"
    assert sweep.done(), sweep.logs()

    told = [attempt["done"] for attempt in sweep.attempts() if "done" in attempt]
    assert len(sweep.attempts()) >= 9  # at least one start more than there are tasks
    assert sum(told) <= 8  # nobody finished what another had finished
    assert "nothing to submit" in submit()

    assert sweep.contents() == sweep.undisturbed(*methods)


def test_a_time_limit_is_met_with_a_checkpoint_and_a_requeue(
    cluster: Cluster, tiny_prior: Path, tmp_path: Path
):
    sweep = Sweep(cluster, tiny_prior, tmp_path, prompts=1, steps=60)
    slow = tmp_path / "methods" / "slow_sds"
    slow.mkdir(parents=True)
    (slow / "method.py").write_text(SLOW)
    more = ("--methods", "slow_sds", "--methods-dir", str(tmp_path / "methods"))
    sweep.submit(*more, profile="signal_seconds = 20", code=0)
    # Slurm counts in minutes and may send the signal a minute early.
    text = (tmp_path / "site.toml").read_text()
    assert "time = 30" in text
    (job,) = sweep.queue()
    cluster.scontrol("update", f"jobid={job}", "timelimit=1")
    sweep.wait(sweep.done, seconds=500)
    starts = sweep.attempts()
    assert len(starts) >= 2 and "time limit" in starts[0]["outcome"]
    assert "not requeued" not in starts[0]["outcome"]
    (folder,) = run_folders(sweep.root)
    assert not (folder.path / "deaths.json").exists(), "it left with a checkpoint, which is no death"


def test_preemption_is_survived(cluster: Cluster, tiny_prior: Path, tmp_path: Path):
    sweep = Sweep(cluster, tiny_prior, tmp_path, prompts=1, steps=800)
    sweep.submit("--methods", "uniform_sds", profile='partition = "low"')
    sweep.wait(lambda: sweep.started() == 1)
    urgent = cluster.sbatch("sleep 1", "--partition=high", "--exclusive", "--nodes=4", folder=tmp_path)
    cluster.wait(lambda: set(cluster.squeue(urgent).values()) == {"COMPLETED"}, 120)
    sweep.wait(sweep.done)
    starts = sweep.attempts()
    assert len(starts) == 2 and starts[0]["left"] == 1 and starts[1]["done"] == 1


def test_a_copy_whose_node_lost_its_daemon_is_fenced(cluster: Cluster, tiny_prior: Path, tmp_path: Path):
    sweep = Sweep(cluster, tiny_prior, tmp_path, prompts=1, steps=4000)
    sweep.submit("--methods", "uniform_sds")
    sweep.wait(lambda: sweep.started() == 1)
    (first,) = sweep.attempts()
    os.kill(cluster.pid(first["node"]), signal.SIGKILL)  # slurmd alone: the step lives on
    try:
        sweep.wait(lambda: len(sweep.attempts()) == 2, seconds=120)
        assert is_running(first["pid"]), "the older copy must still be there for this test to mean anything"
        sweep.wait(lambda: not is_running(first["pid"]), seconds=60)
        older = sweep.attempts()[0]
        assert older["left"] == 1 and "anew elsewhere" in older["outcome"]
        sweep.wait(sweep.done)
    finally:
        cluster.up()
    (folder,) = run_folders(sweep.root)
    steps = [row["step"] for row in folder.metrics()]
    assert steps == sorted(set(steps)) and steps[-1] == 4000
    assert sweep.contents() == sweep.undisturbed("--methods", "uniform_sds")


def test_a_task_that_never_begins_is_given_up_after_three_times(sweep: Sweep):
    for _ in range(3):
        assert "1 tasks, 1 runs" in sweep.submit(
            "--limit", "1", "--methods", "tp_sds", profile='setup = ["echo no such module", "exit 3"]'
        )
        sweep.wait(lambda: not sweep.queue())
    assert "1 failed" in sweep.submit("--limit", "1", "--methods", "tp_sds")
    assert sweep.queue() == {}
    (folder,) = run_folders(sweep.root)
    told = sweep.harness("status", str(sweep.root), "--why", folder.id)
    for word in (
        "ended 3 times",
        "ended before its Python began",
        "no such module",
        "_submission.sh",
        "job ",
    ):
        assert word in told
    assert "FAILED" in told  # by sacct
    assert "1 run will be tried again" in sweep.harness("retry", "--runs", str(sweep.root))
    sweep.submit("--limit", "1", "--methods", "tp_sds")
    sweep.wait(sweep.done)


def test_runs_that_cannot_be_advanced_are_given_up_too(sweep: Sweep, tiny_prior: Path):
    """As where a compute node does not see the weights that the login node has."""
    prior = sweep.folder / "gone"
    sweep.flags += ["--set", f"guidance.prior={prior}"]
    for _ in range(3):
        shutil.copytree(tiny_prior, prior)
        sweep.submit("--limit", "1", "--methods", "tp_sds")
        shutil.rmtree(prior)
        sweep.wait(lambda: not sweep.queue())
    assert sweep.states() == ["failed"]
    (folder,) = run_folders(sweep.root)
    failure = folder.failure()
    assert failure and str(prior) in failure["reason"]


def test_cancelled_runs_leave_and_come_back_with_the_same_command(
    cluster: Cluster, tiny_prior: Path, tmp_path: Path
):
    sweep = Sweep(cluster, tiny_prior, tmp_path, prompts=2, steps=800)
    methods = ("--methods", "uniform_sds,tp_sds")
    sweep.submit(*methods)
    sweep.wait(lambda: sweep.started() == 4)
    told = sweep.harness("cancel", "--runs", str(sweep.root), "method=tp_sds")
    assert "2 runs cancelled, 1 Slurm tasks ended" in told
    told = sweep.harness("cancel", "--runs", str(sweep.root), "method=uniform_sds", "prompt=number 0")
    assert "1 runs cancelled;" in told  # its pack goes on without it
    sweep.wait(lambda: not sweep.queue())
    assert sorted(sweep.states()) == ["cancelled", "cancelled", "cancelled", "done"]
    state = json.loads(sweep.harness("status", str(sweep.root), "--json"))
    assert state["total"]["cancelled"] == 3 and state["total"]["queued"] == 0
    assert "3 runs" in sweep.submit(*methods)
    sweep.wait(sweep.done)
    assert sweep.contents() == sweep.undisturbed(*methods)


def test_what_sbatch_refuses_is_one_line_and_leaves_nothing(sweep: Sweep):
    told = sweep.submit("--limit", "1", "--methods", "tp_sds", profile='partition = "gpus"', code=2)
    plan, error = told.strip().splitlines()
    assert "1 runs: 1 new" in plan and error.startswith("harness: ") and "invalid partition" in error.lower()
    assert list(sweep.root.glob("slurm/*/launch.json")) == [] and sweep.queue() == {}
    check = sweep.harness("slurm", "check", str(sweep.folder / "site.toml"), code=1)
    assert "no partition 'gpus'; choose from high, low, normal" in check
    sweep.submit("--limit", "1", "--methods", "tp_sds", "--dry-run")
    assert list(sweep.root.glob("slurm/*/launch.json")) == []


def test_a_long_sweep_is_split_and_needs_no_accounting(
    bare_cluster: Cluster, tiny_prior: Path, tmp_path: Path
):
    sweep = Sweep(bare_cluster, tiny_prior, tmp_path, prompts=5, steps=20)
    methods = ("--methods", "uniform_sds", "--pack", "1")
    told = sweep.submit(*methods, "--dry-run", profile="max_array = 2")
    assert "5 tasks, 3 arrays" in told and "#SBATCH --array=0-1%" in told and not sweep.root.exists()
    told = sweep.submit(*methods, profile="max_array = 2")
    assert told.count("array ") == 3 and len(sweep.queue()) == 5
    running = json.loads(sweep.harness("status", str(sweep.root), "--json"))
    assert running["total"]["queued"] + running["total"]["running"] + running["total"]["done"] == 5
    # A lost array: only what it had is submitted again.
    array = next(iter(sweep.queue())).partition("_")[0]
    bare_cluster.scancel(array)
    sweep.wait(lambda: not sweep.queue())
    if not sweep.done():
        sweep.submit(*methods)
        sweep.wait(sweep.done)
    (folder, *_) = run_folders(sweep.root)
    told = sweep.harness("status", str(sweep.root), "--why", folder.id)
    assert "accounting" not in told and "done at step 20 of 20" in told
    # Few tasks allowed: they get longer.
    bare_cluster.wait(lambda: not bare_cluster.run("squeue", "-h"))
    told = sweep.submit(*methods, "--seeds", "1", "--dry-run", profile="max_submit = 2")
    assert "5 packs, 2 tasks" in told


def test_a_full_disk_stops_the_task_and_the_same_command_goes_on(
    cluster: Cluster, tiny_prior: Path, tmp_path: Path
):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine does not let a file system be mounted")
    try:
        sweep = Sweep(cluster, tiny_prior, tmp_path, prompts=2, steps=60)
        sweep.root = disk / "runs"
        sweep.submit("--methods", "uniform_sds")
        sweep.wait(lambda: not sweep.queue())
        assert "no space left" in sweep.logs()
        assert "failed" not in sweep.states() and "done" not in sweep.states()
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        sweep.submit("--methods", "uniform_sds")
        sweep.wait(sweep.done)
        assert sweep.contents() == sweep.undisturbed("--methods", "uniform_sds")
    finally:
        for _ in range(50):
            if subprocess.run(["umount", str(disk)], capture_output=True).returncode == 0:
                break
            time.sleep(0.2)


def test_a_login_shells_own_options_do_not_count(sweep: Sweep):
    told = {"SBATCH_TIMELIMIT": "2", "SBATCH_PARTITION": "low", "SLURM_TIMELIMIT": "1", "SQUEUE_STATES": "CG"}
    sweep.cluster.scontrol("update", "partition=normal", "state=down")  # tasks wait
    plain = sweep.cluster.env
    try:
        sweep.cluster.env = plain | told
        says = sweep.submit("--methods", "uniform_sds", profile='partition = "normal"')
        assert "the profile goes before SBATCH_PARTITION, SBATCH_TIMELIMIT, SLURM_TIMELIMIT" in says
        assert "4 queued" in sweep.submit("--methods", "uniform_sds", profile='partition = "normal"')
        sweep.cluster.env = plain
        names = ",".join(array.name for launch in launches(sweep.root) for array in launch.arrays)
        assert sweep.cluster.run("squeue", "-h", "--name", names, "-o", "%P %l").split() == [
            "normal",
            "30:00",
        ]
    finally:
        sweep.cluster.env = plain
        sweep.cluster.scontrol("update", "partition=normal", "state=up")
    sweep.wait(sweep.done)
