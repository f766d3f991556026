"""The benchmark of a disturbed sweep, at a small size: nothing lost, nothing double."""

import os
import subprocess
import sys

from tests.slurm.testbed import Cluster


def test_a_small_disturbed_sweep_ends_whole(cluster: Cluster):
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", "bench", "slurm", "--runs", "16"],
        env=cluster.env | {"PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    cluster.up()
    assert done.returncode == 0 and "nothing lost, nothing double" in done.stdout, done.stdout + done.stderr
    assert "submission of 2 295 runs" in done.stdout and "starts of tasks" in done.stdout


def test_it_refuses_any_other_cluster(cluster: Cluster):
    """Its disturbances are not for somebody's site."""
    settings = cluster.root / "etc" / "settings"
    settings.rename(settings.with_suffix(".away"))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "harness.cli", "bench", "slurm"],
            env=cluster.env | {"PYTHONPATH": os.getcwd()},
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        settings.with_suffix(".away").rename(settings)
    assert done.returncode == 2 and "not the test cluster" in done.stderr
