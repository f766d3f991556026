"""A cluster of slurm/testbed for tests, with a root and ports of its own: no other one is disturbed."""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "slurm" / "testbed"


def free_ports() -> int:
    """A base port that nobody listens near."""
    for base in random.sample(range(20000, 30000, 100), 100):
        try:
            for port in [*range(base, base + 3), *range(base + 11, base + 20)]:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    raise RuntimeError("no free ports between 20000 and 30000")


class Cluster:
    """Four nodes n01 … n04 with 4 CPUs, 6000 MB and 2 GPUs each, in partitions normal, low and high.

    `env` is what a subprocess needs to be a client of this cluster. Jobs run with a shell's `set -e`.
    """

    def __init__(self, root: Path, *options: str):
        self.root = root
        self.base_port = free_ports()
        self.options = ["--root", str(root), "--base-port", str(self.base_port), "--no-link", *options]
        outer = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
        self.env = {**outer, "SLURM_CONF": str(root / "etc" / "slurm.conf"), "SLURM_TESTBED": str(root)}

    def up(self) -> subprocess.CompletedProcess[str]:
        """Starts whatever does not run: a new cluster, a killed node, a stopped controller."""
        return self._script("up", *self.options)

    def down(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self._script("down", *options)

    def run(self, *command: str) -> str:
        """Output of a client command; CalledProcessError, with what it said, where it fails."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        return done.stdout

    def sbatch(self, script: str, *options: str, folder: Path) -> str:
        """Submits a bash script that runs in `folder`; the job's id."""
        path = folder / "job.sh"
        path.write_text(f"#!/bin/bash\nset -e\n{script}\n", encoding="utf-8")
        return self.run(
            "sbatch", "--parsable", f"--chdir={folder}", f"--output={folder}/%A_%a.out", *options, str(path)
        ).strip()

    def squeue(self, job: str) -> dict[str, str]:
        """State of a job, or of each task of an array, by id; until five minutes after its end."""
        lines = self.run("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def show(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says of one job."""
        fields = self.run("scontrol", "-o", "show", "job", job).split()
        return dict(field.split("=", 1) for field in fields if "=" in field)

    def scontrol(self, *arguments: str) -> str:
        return self.run("scontrol", *arguments)

    def scancel(self, *jobs: str) -> None:
        self.run("scancel", *jobs)

    def starttime_now(self, job: str) -> None:
        """Lets a requeued job start without the 11 s that Slurm makes it wait.

        Not when its node has come back this second: slurmctld then may miss the end of the job.
        """
        self.scontrol("update", f"jobid={job}", "starttime=now")

    def saved(self, job: str) -> None:
        """Waits until slurmctld has the job on disk as it is now: a killed one forgets what is newer."""
        mark = f"saved-{time.monotonic_ns()}"
        self.scontrol("update", f"jobid={job}", f"comment={mark}")
        self.wait(lambda: mark.encode() in (self.root / "state" / "job_state").read_bytes())

    def pid(self, daemon: str) -> int:
        """Process id of slurmctld, of slurmdbd, or of a node's slurmd by the node's name."""
        name = f"slurmd-{daemon}" if daemon[0] == "n" else daemon
        return int((self.root / "run" / f"{name}.pid").read_text())

    def kill_node(self, node: str) -> None:
        """Power cut: SIGKILL to slurmd, steps and jobs; the controller notices after about half a minute."""
        done = self._script("kill-node", node)
        assert done.returncode == 0, done.stderr

    def restart_controller(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends slurmctld, cleanly or by SIGKILL, and starts it again; jobs go on meanwhile.

        SIGKILL loses what was submitted or changed in the last seconds: see `saved`.
        """
        pid = self.pid("slurmctld")
        os.kill(pid, how)
        self.wait(lambda: not is_running(pid))
        done = self.up()
        assert done.returncode == 0, done.stderr

    def wait(self, until: Callable[[], object], seconds: float = 120) -> None:
        """Returns once `until()` is true; TimeoutError after `seconds`, with the queue in it."""
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() > end:
                raise TimeoutError(self.run("squeue", "-r", "-t", "all"))
            time.sleep(0.2)

    def _script(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SCRIPTS / name, *arguments], env=self.env, capture_output=True, text=True, timeout=600
        )


def is_running(pid: int) -> bool:
    """Whether a process lives; one that ended and was not yet reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"
