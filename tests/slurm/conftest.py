"""Clusters for the tests of slurm/: brought up once a session, taken down with everything they started."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.slurm.testbed import Cluster

CLUSTERS = {"cluster", "bare_cluster", "own_cluster"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever uses a cluster is marked `slurm`; the other tests of this folder run everywhere."""
    for item in items:
        if Path(__file__).parent in item.path.parents and CLUSTERS & set(getattr(item, "fixturenames", ())):
            item.add_marker("slurm")


def unavailable(reason: str) -> NoReturn:
    """Skips with the reason; where CI=true, fails, since a skipped test proves nothing there."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"no test cluster: {reason}")
    pytest.skip(f"no test cluster: {reason}")


def brought_up(*options: str) -> Iterator[Cluster]:
    # Not in pytest's folders: Slurm's sockets allow short paths only.
    root = Path(tempfile.mkdtemp(prefix="slurm-"))
    cluster = Cluster(root, *options)
    try:
        done = cluster.up()
        if done.returncode == 3:
            unavailable(done.stderr.strip())
        assert done.returncode == 0, done.stderr
        yield cluster
    finally:
        cluster.down("--purge")
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Four nodes with accounting; whoever kills one calls `up()` before leaving."""
    yield from brought_up()


@pytest.fixture(scope="session")
def bare_cluster() -> Iterator[Cluster]:
    """Four nodes of a site without slurmdbd."""
    yield from brought_up("--no-accounting")


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    """One node for one test, which may do what it likes with it."""
    yield from brought_up("--no-accounting", "--nodes", "1")
