"""From packs to arrays, whatever the site's limits; and the records of launches and attempts."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config import Execution, UserError
from harness.sweep.request import Request
from slurm import launches as launches_of
from slurm import site
from slurm.launches import Attempt, Launch, hours, launches
from slurm.profile import Profile
from slurm.site import Limits
from slurm.submit import Submission, arrays, sweep

PACKS = st.integers(1, 400).flatmap(
    lambda n: st.lists(st.integers(1, 16), min_size=n, max_size=n).map(
        lambda sizes: [[f"run{p}-{r}" for r in range(size)] for p, size in enumerate(sizes)]
    )
)


@given(
    packs=PACKS,
    gpus=st.integers(0, 8),
    each=st.none() | st.integers(1, 5),
    most=st.integers(1, 1001),
    room=st.none() | st.integers(1, 500),
)
def test_every_run_is_in_one_task_within_the_sites_limits(
    packs: list[list[str]], gpus: int, each: int | None, most: int, room: int | None
):
    profile = Profile(gpus_per_node=gpus, packs_per_task=each)
    found = arrays(packs, profile, Limits(most, room))
    tasks = [task for array in found for task in array]
    assert [run for task in tasks for run in task] == [run for pack in packs for run in pack]
    assert all(0 < len(array) <= most for array in found)
    assert room is None or len(tasks) <= room
    if room is None or room >= len(packs):
        assert len(tasks) == -(-len(packs) // (each or max(gpus, 1)))


def test_no_room_is_told():
    with pytest.raises(UserError, match="no further task now"):
        arrays([["a"]], Profile(), Limits(1001, 0))


def test_a_plan_is_shown_where_there_is_no_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("PATH", str(tmp_path))
    request = Request(Path("coco"), limit=3, methods="uniform_sds")
    suite, specs = request.resolve(say=lambda line: None)
    asked = Submission(
        tmp_path / "runs",
        suite,
        specs,
        Execution(pack=1, wandb="disabled"),
        "site",
        Profile(max_array=2),
        "x",
    )
    sweep(asked, dry_run=True)
    told = capsys.readouterr().out
    assert told.startswith(
        "no Slurm on this machine: planned without its queue and its limits\n3 runs: 3 new"
    )
    assert "# array 0: 2 tasks" in told and "# array 1: 1 tasks" in told and "#SBATCH" in told
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UserError, match="no squeue on this machine"):
        sweep(asked, dry_run=False)
    assert not (tmp_path / "runs").exists()


def make_launch(root: Path, profile: Profile | None = None) -> Launch:
    profile = profile or Profile(gpus_per_node=2)
    execution = Execution(methods_dirs=("somewhere",), wandb="disabled")
    return Launch.prepare(root, "harness sweep …", "site", profile, execution, [[["a", "b"], ["c"]], [["d"]]])


def test_a_launch_comes_back_as_it_was(tmp_path: Path):
    made = make_launch(tmp_path)
    made.arrays[0].job, made.arrays[1].job = "41", "42"
    made.save()
    (found,) = launches(tmp_path)
    assert (found.profile, found.execution, found.command) == (made.profile, made.execution, made.command)
    tasks = found.tasks()
    assert [(task.name, task.job, task.runs) for task in tasks] == [
        ("0-0", "41_0", ["a", "b"]),
        ("0-1", "41_1", ["c"]),
        ("1-0", "42", ["d"]),
    ]
    assert tasks[0].log == found.jobs / "41_0_0_log.out" and tasks[2].log == found.jobs / "42_0_log.out"
    assert len({array.name for array in found.arrays}) == 2
    (found.folder / "launch.json").write_text('{"torn')
    assert launches(tmp_path) == []


def test_an_attempt_gives_way_to_a_later_start_of_its_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    launch = make_launch(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "50")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "41")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURMD_NODENAME", "n02")
    first = Attempt(launch, "0-1")
    other = Attempt(launch, "0-0")
    assert not first.superseded()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    second = Attempt(launch, "0-1")
    assert first.superseded() and not second.superseded() and not other.superseded()
    second.end("done", done=1)
    (found,) = launches(tmp_path)
    starts = found.tasks()[1].attempts
    assert [(a["job"], a["restart"], a["node"], a.get("outcome")) for a in starts] == [
        ("41_1", 0, "n02", None),
        ("41_1", 1, "n02", "done"),
    ]


def test_hours_count_to_the_end_or_to_the_last_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    launch = make_launch(tmp_path)
    now = [1000.0]
    monkeypatch.setattr(launches_of.time, "time", lambda: now[0])
    ended, killed = Attempt(launch, "0-0"), Attempt(launch, "0-1")
    now[0] += 3600
    ended.end("done")
    os.utime(killed.path, (1000.0 + 1800, 1000.0 + 1800))
    used = hours(launches(tmp_path))
    assert used.tasks == pytest.approx(1.5) and used.gpus == pytest.approx(3.0)


def test_the_profile_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in os.environ if name.startswith(("SBATCH_", "SLURM_", "SQUEUE_"))]:
        monkeypatch.delenv(name)
    given = {
        "SBATCH_TIMELIMIT": "2",
        "SBATCH_PARTITION": "low",
        "SBATCH_ACCOUNT": "mine",
        "SBATCH_RESERVATION": "maintenance",
        "SBATCH_MEM_PER_CPU": "100",
        "SQUEUE_STATES": "RUNNING",
        "SLURM_CONF": "/etc/slurm.conf",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    profile = Profile(partition="gpu", sbatch={"--reservation": "ours"})
    kept = {name: value for name, value in site.outside(profile).items() if name in given}
    assert kept == {"SBATCH_ACCOUNT": "mine", "SLURM_CONF": "/etc/slurm.conf"}
    assert not [name for name in site.outside() if name in given and name != "SLURM_CONF"]
    with site.submitting(profile):
        assert os.environ == site.outside(profile)
    assert all(os.environ[name] == value for name, value in given.items())
    assert site.said_by_environment(profile) == (
        "SBATCH_ACCOUNT=mine (the profile leaves it open); the profile goes before SBATCH_MEM_PER_CPU, "
        "SBATCH_PARTITION, SBATCH_RESERVATION, SBATCH_TIMELIMIT, SQUEUE_STATES"
    )
    monkeypatch.setenv("SLURM_JOB_ID", "7")  # a job's own variables are nobody's wish
    monkeypatch.setenv("SLURM_TIMELIMIT", "7")
    assert "SLURM_TIMELIMIT" not in site.said_by_environment(profile)
    assert "SLURM_TIMELIMIT" not in site.outside(profile)
