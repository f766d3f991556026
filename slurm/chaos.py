"""What clusters do to sweeps, done on purpose to the one of slurm/testbed, and to no other."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from harness.config import UserError
from harness.records.folder import run_folders
from harness.records.lease import read_lease
from slurm import site
from slurm.launches import Task, in_queue, launches

TESTBED = Path(__file__).parent / "testbed"


def testbed() -> Path:
    """The folder of the test cluster that this shell's commands talk to; raises UserError for any other."""
    folder = site.config().get("SLURM_CONF", "")
    root = Path(folder).resolve().parent.parent
    if not (root / "etc" / "settings").exists():
        raise UserError("this Slurm is not the test cluster; slurm/testbed/up starts one")
    return root


class Chaos:
    """Disturbances of the sweep in `root`, drawn at random; `count` tells how often each was done."""

    def __init__(self, root: Path):
        self.root = root
        self.cluster = testbed()
        self.dice = random.Random(0)
        self.count: Counter[str] = Counter()
        self.kinds: list[tuple[str, Callable[[], bool]]] = [
            ("node killed", self.kill_node),
            ("task requeued", self.requeue),
            ("worker killed", self.kill_worker),
            ("waiting task cancelled", self.cancel),
            ("controller killed", self.kill_controller),
            ("slurmd killed alone", self.kill_daemon),
        ]

    def strike(self) -> str:
        """Do one of them; its name, or "" where there was nothing to do it to."""
        name, action = self.dice.choice(self.kinds)
        done = action()
        self.count[name] += done
        return name if done else ""

    def repair(self) -> None:
        """Start again whatever of the cluster does not run, and let requeued tasks start at once."""
        subprocess.run([TESTBED / "up", "--root", self.cluster], capture_output=True, check=True)
        for task in self._tasks("PENDING"):
            if task.job and task.queued and task.queued.reason == "BeginTime":
                site.ask("scontrol", "update", f"jobid={task.job}", "starttime=now")

    def kill_node(self) -> bool:
        """A power cut: slurmd, its steps and their jobs."""
        nodes = {task.queued.node for task in self._tasks("RUNNING") if task.queued}
        if not nodes:
            return False
        node = self.dice.choice(sorted(nodes))
        command = [TESTBED / "kill-node", "--root", self.cluster, node]
        return subprocess.run(command, capture_output=True).returncode == 0

    def kill_daemon(self) -> bool:
        """A node whose slurmd dies, and whose jobs live on."""
        nodes = {task.queued.node for task in self._tasks("RUNNING") if task.queued}
        return bool(nodes) and self._kill(f"slurmd-{self.dice.choice(sorted(nodes))}")

    def kill_controller(self) -> bool:
        """slurmctld dies."""
        return self._kill("slurmctld")

    def requeue(self) -> bool:
        """Somebody requeues a running task, without a warning to it."""
        tasks = self._tasks("RUNNING")
        return bool(tasks) and site.requeue(str(self.dice.choice(tasks).job)) is None

    def cancel(self) -> bool:
        """One waiting task is cancelled; nobody hears of it again."""
        tasks = self._tasks("PENDING")
        if tasks:
            site.cancel([str(self.dice.choice(tasks).job)])
        return bool(tasks)

    def kill_worker(self) -> bool:
        """A worker process is killed, as by a machine out of memory."""
        leases = [read_lease(folder.path) for folder in run_folders(self.root)]
        pids = sorted({lease["pid"] for lease in leases if lease})
        if not pids:
            return False
        try:
            os.kill(self.dice.choice(pids), signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def _kill(self, daemon: str) -> bool:
        try:
            os.kill(int((self.cluster / "run" / f"{daemon}.pid").read_text()), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return False
        return True

    def _tasks(self, state: str) -> list[Task]:
        try:
            queue = in_queue(launches(self.root))
        except site.NoSlurm:  # the controller is down, by one of these
            return []
        return [task for task in queue if task.queued and task.queued.state == state]

    def told(self) -> str:
        """The counts, for people."""
        return ", ".join(f"{name} {count}×" for name, count in sorted(self.count.items()) if count)
