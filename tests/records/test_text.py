"""Files that people write are read in one way: UTF-8, no byte-order marks, one line where that fails."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.config import UserError
from harness.records.files import MOST_TEXT, NoSuchFile, read_json, read_text, write_cache
from harness.sweep.grid import read_suite
from harness.text import size
from slurm import profile


def test_marks_are_dropped_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "s.txt"
    path.write_text("\ufeff# comment\na red apple\n\ufeffa blue cup\n", encoding="utf-8")
    assert read_text(path) == "# comment\na red apple\na blue cup\n"
    assert read_suite(path).prompts == ("a red apple", "a blue cup")
    (tmp_path / "site.toml").write_text("\ufefftime = 30\n", encoding="utf-8")
    assert profile.load(str(tmp_path / "site.toml")).time == 30
    (tmp_path / "x.json").write_text('\ufeff{"a": 1}', encoding="utf-8")
    assert read_json(tmp_path / "x.json") == {"a": 1}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("a red apple\n".encode("utf-16"), "UTF-16 or binary"),
        ("a red apple\n".encode("utf-16-be"), "UTF-16 or binary"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "UTF-16 or binary"),
        ("a cup\na caf\xe9\n".encode("latin-1"), "no UTF-8 text (line 2)"),
    ],
)
@pytest.mark.parametrize("read", [read_text, read_suite, lambda path: profile.load(str(path))])
def test_another_encoding_is_one_line(
    read: Callable[[Path], object], data: bytes, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "s.toml"
    path.write_bytes(data)
    with pytest.raises(UserError) as told:
        read(path)
    assert says in str(told.value) and str(path) in str(told.value) and "\n" not in str(told.value)


def test_what_is_no_file_of_text(tmp_path: Path) -> None:
    with pytest.raises(NoSuchFile):
        read_text(tmp_path / "nowhere")
    with pytest.raises(UserError, match="Is a directory"):
        read_text(tmp_path)
    with pytest.raises(UserError, match=f"more than {MOST_TEXT >> 20} MiB"):
        read_text(Path("/dev/zero"))


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "eval").write_text("a file where a folder should be")
    write_cache(tmp_path / "eval" / "x.bin", b"x")
    write_cache(tmp_path / "new" / "x.bin", b"x")
    assert (tmp_path / "new" / "x.bin").read_bytes() == b"x" and os.listdir(tmp_path / "new") == ["x.bin"]


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_960, "100 kB"),
        (999_600, "1.0 MB"),
        (3.4e9, "3.4 GB"),
        (5e15, "5000 TB"),
    ],
)
def test_bytes_are_written_as_people_do(count: float, shown: str) -> None:
    assert size(count) == shown
