"""The live view on a real terminal: it follows the runs, and a closed terminal takes nothing with it."""

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

from harness.records.folder import RunFolder
from harness.records.identity import RunSpec


def _start(root: Path, log: Path) -> tuple[subprocess.Popen, int]:
    master, slave = pty.openpty()
    with open(log, "wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.cli", "status", str(root), "--watch"],
            stdin=slave,
            stdout=slave,
            stderr=errors,
            start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
            env=os.environ | {"COLUMNS": "120", "TERM": "xterm"},
        )
    os.close(slave)
    return process, master


def _read_until(master: int, text: bytes) -> bytes:
    seen, deadline = b"", time.monotonic() + 60
    while text not in seen:
        assert time.monotonic() < deadline, seen
        seen += os.read(master, 65536)
    return seen


def test_it_follows_the_runs_and_a_closed_terminal_is_no_error(tmp_path: Path):
    root, log = tmp_path / "runs", tmp_path / "errors.txt"
    folder = RunFolder.create(root, RunSpec(method="tp_sds", prompt="a red bus", seed=0))
    lease = folder.acquire("test")
    assert lease
    folder.save_state(step=100, total=400, rate=10.0)

    process, master = _start(root, log)
    _read_until(master, b"100/400")
    os.close(master)
    assert process.wait(timeout=30) in (0, -1)  # ended, or by the hang-up that the terminal sends
    assert "Traceback" not in log.read_text()
    assert lease.held() and folder.status() == "running"

    process, master = _start(root, log)
    _read_until(master, b"100/400")
    folder.finish({"steps": 400})
    lease.release()
    assert b"400/400" in _read_until(master, b"400/400")
    assert process.wait(timeout=30) == 0 and log.read_text() == ""
    os.close(master)
