"""The test cluster itself: what it must do for tests of launchers to mean something."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from tests.slurm.conftest import unavailable
from tests.slurm.testbed import SCRIPTS, Cluster, is_running

NODES = ["n01", "n02", "n03", "n04"]


def ended(cluster: Cluster, job: str) -> bool:
    return set(cluster.squeue(job).values()) == {"COMPLETED"}


def running(cluster: Cluster, job: str) -> bool:
    return set(cluster.squeue(job).values()) == {"RUNNING"}


def started_for(root: Path) -> list[int]:
    """Processes whose environment names this root."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"SLURM_TESTBED={root}".encode() in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
        except OSError:
            continue
    return found


def test_up_again_changes_nothing(cluster: Cluster):
    daemons = ["slurmctld", "slurmdbd", *NODES]
    before = {daemon: cluster.pid(daemon) for daemon in daemons}
    assert cluster.up().returncode == 0
    assert {daemon: cluster.pid(daemon) for daemon in daemons} == before


def test_it_listens_on_loopback_only(cluster: Cluster):
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [local.split(":") for _, local, _, state, *_ in sockets if state == "0A"]
    ours = {int(port, 16): address for address, port in listening}
    ours = {p - cluster.base_port: a for p, a in ours.items() if 0 <= p - cluster.base_port < 20}
    assert ours == dict.fromkeys([0, 1, 2, 11, 12, 13, 14], "0100007F")
    everywhere = Path("/proc/net/tcp6")
    assert not everywhere.exists() or f":{cluster.base_port:04X} " not in everywhere.read_text()


def test_tasks_of_an_array_run_once_each_on_every_node(cluster: Cluster, tmp_path: Path):
    job = cluster.sbatch(
        'echo "$SLURM_ARRAY_TASK_ID $SLURMD_NODENAME" >>ran; sleep 0.5', "--array=0-19", folder=tmp_path
    )
    cluster.wait(lambda: ended(cluster, job))
    ran = [line.split() for line in (tmp_path / "ran").read_text().splitlines()]
    assert Counter(task for task, _ in ran) == Counter(map(str, range(20)))
    assert {node for _, node in ran} == set(NODES)
    cluster.wait(lambda: cluster.run("sacct", "-nXP", "-j", job, "-o", "state").split() == ["COMPLETED"] * 20)


def test_an_array_beyond_the_limit_is_refused(cluster: Cluster, tmp_path: Path):
    with pytest.raises(subprocess.CalledProcessError) as refused:
        cluster.sbatch("true", "--array=0-1001", folder=tmp_path)
    assert "Invalid job array specification" in refused.value.stderr


def test_every_task_sees_its_own_gpu(cluster: Cluster, tmp_path: Path):
    hold = 'echo "$SLURMD_NODENAME $CUDA_VISIBLE_DEVICES" >gpu-$SLURM_ARRAY_TASK_ID\n'
    hold += "until [ $(ls gpu-* | wc -l) = 8 ]; do sleep 0.2; done"
    job = cluster.sbatch(hold, "--array=0-7", "--gres=gpu:1", folder=tmp_path)
    cluster.wait(lambda: ended(cluster, job))
    seen = {tuple(path.read_text().split()) for path in tmp_path.glob("gpu-*")}
    assert seen == {(node, gpu) for node in NODES for gpu in "01"}


def test_a_site_without_accounting_has_no_sacct(bare_cluster: Cluster, tmp_path: Path):
    job = bare_cluster.sbatch("touch done", folder=tmp_path)
    bare_cluster.wait(lambda: ended(bare_cluster, job))
    assert (tmp_path / "done").exists()
    with pytest.raises(subprocess.CalledProcessError) as refused:
        bare_cluster.run("sacct", "-j", job)
    assert "accounting storage is disabled" in refused.value.stderr


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_jobs_outlive_their_controller(bare_cluster: Cluster, tmp_path: Path, how: signal.Signals):
    job = bare_cluster.sbatch("echo $$ >>ran; until [ -e go ]; do sleep 0.2; done", folder=tmp_path)
    bare_cluster.wait((tmp_path / "ran").exists)
    bare_cluster.saved(job)
    before = bare_cluster.pid("slurmctld")
    bare_cluster.restart_controller(how)
    assert bare_cluster.pid("slurmctld") != before
    assert running(bare_cluster, job)
    (tmp_path / "go").touch()
    bare_cluster.wait(lambda: ended(bare_cluster, job))
    assert len((tmp_path / "ran").read_text().split()) == 1


def test_high_preempts_low_which_runs_again(bare_cluster: Cluster, tmp_path: Path):
    # A step that ends at SIGTERM ends its job: only one that outlives the grace time is requeued.
    low = bare_cluster.sbatch(
        "trap '' TERM; echo $SLURM_RESTART_COUNT >>ran; until [ -e go ]; do sleep 0.2; done",
        "--partition=low",
        "--nodes=4",
        "--exclusive",
        folder=tmp_path,
    )
    bare_cluster.wait((tmp_path / "ran").exists)
    folder = tmp_path / "high"
    folder.mkdir()
    high = bare_cluster.sbatch("touch ran", "--partition=high", folder=folder)
    bare_cluster.wait((folder / "ran").exists)
    bare_cluster.wait(lambda: ended(bare_cluster, high))
    bare_cluster.wait(lambda: bare_cluster.squeue(low)[low] == "PENDING")
    bare_cluster.starttime_now(low)
    (tmp_path / "go").touch()
    bare_cluster.wait(lambda: ended(bare_cluster, low))
    assert bare_cluster.show(low)["Restarts"] == "1"
    assert (tmp_path / "ran").read_text() == "\n1\n"


def test_a_power_cut_ends_the_node_and_requeues_its_jobs(cluster: Cluster, tmp_path: Path):
    # One process is in the step's tree, the other has left it.
    script = """
        (setsid bash -c 'echo $$ >>processes; sleep 300' &)
        echo $$ >>processes
        until [ -e go ]; do sleep 0.2; done"""
    job = cluster.sbatch(script, "--nodelist=n02", folder=tmp_path)
    bystander = cluster.sbatch("until [ -e go ]; do sleep 0.2; done", "--nodelist=n03", folder=tmp_path)
    processes = tmp_path / "processes"
    cluster.wait(lambda: processes.exists() and len(processes.read_text().split()) == 2)
    cluster.wait(lambda: running(cluster, bystander))
    slurmd = cluster.pid("n02")
    cluster.kill_node("n02")
    assert not any(is_running(int(pid)) for pid in [slurmd, *processes.read_text().split()])
    assert is_running(cluster.pid("n03")) and running(cluster, bystander)
    cluster.wait(lambda: cluster.squeue(job)[job] == "PENDING")
    (tmp_path / "go").touch()
    assert cluster.up().returncode == 0
    assert cluster.pid("n02") != slurmd
    cluster.wait(lambda: ended(cluster, job) and ended(cluster, bystander))
    assert cluster.show(job)["Restarts"] == "1" and cluster.show(bystander)["Restarts"] == "0"


def test_down_ends_what_is_its_own_and_nothing_else(own_cluster: Cluster, tmp_path: Path):
    root = own_cluster.root
    job = own_cluster.sbatch("(setsid sleep 300 &); touch ran; sleep 300", folder=tmp_path)
    own_cluster.wait((tmp_path / "ran").exists)
    slurmd = shutil.copy("/bin/sleep", tmp_path / "slurmd")
    with (
        subprocess.Popen([slurmd, "300"], env={}) as of_another_cluster,
        subprocess.Popen(["sleep", "300"], env=own_cluster.env) as of_a_client,
    ):
        # As after a reboot: the pid of a pid file is somebody else's.
        (root / "run" / "slurmd-n09.pid").write_text(str(of_another_cluster.pid))
        assert own_cluster.down().returncode == 0
        assert of_another_cluster.poll() is None and of_a_client.poll() is None
        left = [pid for pid in started_for(root) if is_running(pid)]
        assert left == [of_a_client.pid]
        of_another_cluster.kill()
        of_a_client.kill()
    # What was kept is continued: ids of jobs do not start over.
    assert own_cluster.up().returncode == 0
    assert int(own_cluster.sbatch("true", folder=tmp_path)) == int(job) + 1
    assert own_cluster.down("--purge").returncode == 0
    assert not root.exists()


def test_it_is_the_default_where_there_is_no_other(own_cluster: Cluster):
    link = Path("/etc/slurm/slurm.conf")
    other = link.exists() and link.read_bytes()
    ours = (own_cluster.root / "etc" / "slurm.conf").read_bytes()
    assert other != ours
    own_cluster.options.remove("--no-link")
    assert own_cluster.up().returncode == 0
    assert link.read_bytes() == (other or ours)
    assert own_cluster.down().returncode == 0
    assert (link.exists() and link.read_bytes()) == other


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("up", ["--nodez", "3"], "no option '--nodez' (--root, "),
        ("up", ["--nodes", "many"], "--nodes is a number from 1 to 99, not 'many'"),
        ("up", ["--root"], "--root needs a folder"),
        ("up", ["--root", "/usr/lib/x y"], "at most 60 characters"),
        ("down", ["--force"], "no option '--force' (--root, --purge)"),
        ("kill-node", [], "name a node"),
        ("kill-node", ["--root", "/nowhere", "n01"], "no cluster in /nowhere"),
    ],
)
def test_bad_options_get_one_line(script: str, arguments: list[str], said: str):
    done = subprocess.run([SCRIPTS / script, *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_a_folder_of_something_else_is_no_root():
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "thesis.tex").touch()
        done = subprocess.run([SCRIPTS / "up", "--root", folder], capture_output=True, text=True)
        assert done.returncode in (2, 3) and os.listdir(folder) == ["thesis.tex"]
        subprocess.run([SCRIPTS / "down", "--purge", "--root", folder], check=True, capture_output=True)
        assert os.listdir(folder) == ["thesis.tex"]


def test_without_root_it_says_so():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        shutil.copytree(SCRIPTS, Path(folder) / "testbed")
        user = ["setpriv", "--reuid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        up = [*user, f"{folder}/testbed/up", "--root", f"{folder}/root"]
        done = subprocess.run(up, capture_output=True, text=True)
    assert done.returncode == 3 and "needs root" in done.stderr and done.stderr.count("\n") == 1


def test_in_ci_a_skip_is_a_failure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CI", "")
    with pytest.raises(pytest.skip.Exception, match="no apt-get"):
        unavailable("no apt-get")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no apt-get"):
        unavailable("no apt-get")
