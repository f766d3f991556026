"""Profiles of sites: strict keys, Slurm's time formats, the shipped ones, and the one with comments."""

import tomllib
from pathlib import Path

import pytest

from harness.config import UserError
from slurm import profile, sbatch
from slurm.profile import Profile, minutes


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("90", 90),
        ("5:30", 6),
        ("1:30:00", 90),
        ("0:00:01", 1),
        ("2-12", 3600),
        ("1-01:30", 1530),
        ("1-01:30:10", 1531),
    ],
)
def test_times_are_read_as_slurm_writes_them(text: str, value: int):
    assert minutes(text) == value
    assert Profile.model_validate({"time": text, "signal_seconds": 10}).time == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("partion = 'gpu'", "did you mean 'partition'?"),
        ("time = 'soon'", "time"),
        ("cpus = 0", "cpus"),
        ("mem = 'plenty'", "mem"),
        ("time = 1\nsignal_seconds = 60", "signal_seconds"),
        ("gpus_per_node = 1\ngres = 'gpu:1'", "keep one"),
        ("[sbatch]\narray = '0-3'", "set by the launcher"),
        ("[sbatch]\npartition = 'x'", "key of its own"),
        ("mail-type = 'FAIL'", "under [sbatch]"),
        ("cpus = ", "Invalid value"),
    ],
)
def test_a_wrong_profile_is_one_line(text: str, says: str, tmp_path: Path):
    path = tmp_path / "site.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        profile.load(str(path))
    assert says in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_name_is_told_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="did you mean 'testbed'"):
        profile.load("testbad")
    with pytest.raises(UserError, match=r"no Slurm profile no/such\.toml"):
        profile.load("no/such.toml")


def test_the_shipped_profiles_and_a_new_one_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="which profile"):
        profile.default()
    path = profile.new("a100")
    assert profile.default() == "a100"
    for name in profile.names():
        assert profile.load(name).cpus >= 1
    # Every line that is commented out names a key, so that uncommenting it is enough.
    lines = [line.lstrip("# ").strip() for line in path.read_text().splitlines()[3:]]
    keys = tomllib.loads("\n".join(line for line in lines if "=" in line or line.startswith("[")))
    assert set(keys) <= set(Profile.model_fields) and len(keys) > 12
    with pytest.raises(UserError, match="exists already"):
        profile.new("a100")
    with pytest.raises(UserError, match="no name"):
        profile.new("a/b")


def test_gpus_are_counted_however_they_are_asked_for():
    assert Profile().gpus == 0 and Profile().slots == 1
    assert Profile(gpus_per_node=4).gpus == Profile(gpus_per_node=4).slots == 4
    assert Profile(gres="gpu:a100:2").gpus == 2 and Profile(gres="gpu").gpus == 1
    assert Profile(gpus_per_node=2, device="cpu").slots == 1


def test_a_profile_in_submitits_words():
    full = Profile(
        partition="p",
        account="a",
        qos="q",
        constraint="c",
        gres="gpu:2",
        setup=("module load x",),
        environment={"A": "b c", "HF_HUB_OFFLINE": "0"},
        sbatch={"--exclude": "n07", "exclusive": True, "overcommit": False},
    )
    words = sbatch.parameters(full, "name", arrays=4)
    assert words["array_parallelism"] == 64 and words["gres"] == "gpu:2" and "gpus_per_node" not in words
    assert words["setup"][0] == "module load x"
    assert words["setup"][-2:] == ["export HF_HUB_OFFLINE=0", "export A='b c'"]
    assert words["additional_parameters"] == {"requeue": True, "exclude": "n07", "exclusive": True}
    assert "export HF_HUB_OFFLINE=1" in sbatch.parameters(Profile(), "name")["setup"]
