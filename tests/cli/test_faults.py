"""An error that nobody foresaw; how the command ends as shells expect; the bounds of its texts."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from harness.cli import main
from harness.config import Config, UserError, apply_overrides, parse_value, read_toml
from harness.presets import preset
from harness.records.identity import LARGEST_SEED
from harness.sweep.grid import MOST_SEEDS, choose_methods, parse_seeds, seed_ranges
from harness.sweep.select import LONGEST_WORD, select
from harness.text import plain, short


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """`harness methods`, which ends in the error given: exit code, what is on stderr, saved tracebacks."""

    def call(error: BaseException) -> tuple[int, str, list[Path]]:
        def fails(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("harness.distill.method.discover", fails)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        monkeypatch.setattr(sys, "argv", ["harness", "methods"])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().err, list(tmp_path.iterdir())

    return call


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a\nb \x1b[31m"), RecursionError(), MemoryError(), KeyError("x" * 9000)]
)
def test_an_error_that_nobody_foresaw_is_one_line_and_a_file(error: Exception, run) -> None:
    code, err, (saved,) = run(error)
    assert code == 1 and err.startswith(f"harness: unexpected {type(error).__name__}")
    assert err.count("\n") == 1 and len(err) < 1000 and "\x1b" not in err and str(saved) in err
    assert "Traceback" in saved.read_text() and type(error).__name__ in saved.read_text()


def test_a_traceback_is_shown_where_it_is_asked_for(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        run(ZeroDivisionError())


def test_where_no_traceback_can_be_saved_it_is_said(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    code, err, _ = run(ValueError("x"))
    assert code == 1 and err.count("\n") == 1 and "could not be saved" in err


def test_places_are_the_users_and_ends_are_the_shells(run) -> None:
    code, err, saved = run(OSError(errno.ENAMETOOLONG, "File name too long", "y" * 5000))
    assert code == 2 and "File name too long" in err and len(err) < 1000 and not saved
    assert run(KeyboardInterrupt())[:2] == (130, "")


def test_a_reader_that_leaves_ends_the_command_quietly() -> None:
    command = "import sys; sys.argv = ['harness', 'methods']; from harness.cli import main; main()"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", command], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert done.returncode == 141 and done.stderr == b""  # as `cat FILE | head -0`


def test_a_thread_that_fails_is_a_line(run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(UserError("x"))[0] == 2  # main has been at work

    def fails() -> None:
        raise ValueError("in a thread")

    thread = threading.Thread(target=fails)
    thread.start()
    thread.join()
    err = capsys.readouterr().err
    threading.excepthook = threading.__excepthook__
    assert err.startswith("harness: unexpected ValueError: in a thread") and err.count("\n") == 1


def test_bytes_that_are_no_utf8_are_told_as_they_are(tmp_path: Path) -> None:
    name = os.fsdecode(b"r\xffuns")
    command = [sys.executable, "-m", "harness.cli", "status", name]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0"})
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1 and b"r\\udcffuns" in done.stderr


@pytest.mark.parametrize(
    "text", ["[" * 5000, '{"a":' * 5000, "9" * 5000, "-" + "9" * 300, "1e400", "\ud800", "x" * 100_000, "\0"]
)
def test_a_setting_takes_any_text_or_refuses_it_in_a_line(text: str) -> None:
    keys = ("scene.resolution", "guidance.cfg_scale", "guidance.t_range", "optim.lr", "scene.kind", "steps")
    for key in keys:
        with pytest.raises(UserError) as refused:
            apply_overrides(preset("toy"), [f"{key}={text}"])
        assert len(str(refused.value)) < 2500
    parse_value(text, str)
    for other in (
        lambda: read_toml(f"a = {text}", "x"),
        lambda: choose_methods("tp_sds", [f"tp_sds.m1={text}"]),
    ):
        with suppress(UserError):  # a number may be as long as it likes where it fits
            other()


def test_whole_numbers_of_settings_have_a_bound() -> None:
    with pytest.raises(UserError, match="at most 2147483647"):
        apply_overrides(preset("toy"), [f"scene.hidden={2**31}"])
    assert isinstance(apply_overrides(preset("toy"), [f"scene.hidden={2**31 - 1}"]), Config)
    with pytest.raises(UserError, match="steps: Input should be less than or equal to"):
        apply_overrides(preset("toy"), [f"steps={2**31 - 1}"])


def test_seeds_are_never_materialised_and_have_a_bound(tmp_path: Path) -> None:
    assert sum(map(len, seed_ranges("0-9999999999,5"))) == 10**10 + 1
    assert parse_seeds("3,0-2,1-3") == [0, 1, 2, 3] and seed_ranges(str(LARGEST_SEED))
    for text in (
        "0-9999999999",
        f"0-{MOST_SEEDS}",
        "9" * 240,
        f"0-{'9' * 5000}",
        str(LARGEST_SEED + 1),
        "5-2",
    ):
        with pytest.raises(UserError) as refused:
            parse_seeds(text)
        assert len(str(refused.value)) < 300
    with pytest.raises(UserError, match="no run in"):
        select(tmp_path, ["seed=0-9999999999"])


def test_a_filter_has_a_bound(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"at most {LONGEST_WORD}"):
        select(tmp_path, ["*a" * 50_000])


@pytest.mark.parametrize("text", ["tp_sds:preset=1", "tp_sds:preset=iclr", "tp_sds:iclr:preset=iclr"])
def test_a_preset_is_named_after_a_colon(text: str) -> None:
    with pytest.raises(UserError, match="after a colon"):
        choose_methods(text, [])


def test_texts_are_shown_whole_or_cut_in_the_middle() -> None:
    assert short("x" * 600) == "x" * 600 and len(short("x" * 601)) <= 600
    assert plain("a\tb\r\n\x1b\u202e\udcff") == r"a b  \x1b\u202e\udcff" and plain("é 中 🦊") == "é 中 🦊"
