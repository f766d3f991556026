"""Whatever the user's environment is, a command works or says in one line why it does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import device

HOSTILE = {
    "HOME": "/proc/nowhere",
    "XDG_CACHE_HOME": "/proc/nowhere",
    "XDG_CONFIG_HOME": "/proc/nowhere",
    "MPLCONFIGDIR": "/proc/nowhere",
    "MPLBACKEND": "module://no_such_backend",
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "TERM": "dumb",
    "COLUMNS": "1",
}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", *arguments],
        env=os.environ | HOSTILE | environment,
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["methods"], ["status", "nowhere"]], ids=" ".join)
def test_a_hostile_environment_ends_in_no_traceback(arguments: list[str]):
    done = run(*arguments)
    assert done.returncode == (2 if arguments[0] == "status" else 0), done.stderr
    assert "Traceback" not in done.stderr


def test_figures_need_nothing_of_the_users(tmp_path: Path):
    done = run("reproduce", "fig6", "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs"))
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert {path.suffix for path in tmp_path.rglob("schedules.*")} == {".pdf", ".png", ".json"}


@pytest.mark.skipif(bool(device.gpus()), reason="there is a GPU here")
@pytest.mark.parametrize("visible", ["NoDevFiles", "0", "", "-1"])
def test_auto_takes_the_cpu_where_cuda_shows_none(
    visible: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from harness.config import Execution, UserError
    from harness.sweep.pool import slots

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    device.say_that_gpus_are_hidden.cache_clear()
    assert [slot.device for slot in slots(Execution(device="auto"))] == ["cpu"]
    assert device.pick_device("auto") == "cpu"
    said = capsys.readouterr().err
    assert said == f"CUDA_VISIBLE_DEVICES={visible} shows no GPU here: the CPU is taken\n"
    assert [slot.device for slot in slots(Execution(device="cpu"))] == ["cpu"]
    with pytest.raises(UserError, match="--device cuda: CUDA shows no GPU here"):
        slots(Execution(device="cuda"))
