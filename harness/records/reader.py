"""Reading files that a run's folder holds, whoever put them there: nothing hangs, nothing outside is read.

A file counts where it is a regular one that folders alone lead to, no links, and no larger than it may be.
Its JSON is UTF-8, of bounded depth, with finite numbers of at most 64 bits.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from pathlib import Path, PurePath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from harness.config import UserError

DEPTH = 32
LARGEST = 2**63 - 1
HEADER_BYTES = 2**20
_PLAIN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO would be waited for
# Numbers that may be too long, or none. A glance at the digits first: a pattern looks at every byte.
_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG, _STEEP = b"0" * 19, (b"e000", b"E000", b"e+000", b"E+000")
_EXPONENT = re.compile(rb"[eE]\+?\d{3}")
_MANTISSA = re.compile(rb"(?:^|[\s:,\[])-?\d+(?:\.\d+)?\Z")  # before it; in a hash there is none
_OF_THE_FILE = (
    errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.ENODEV, errno.EACCES, errno.EPERM,
    errno.ENAMETOOLONG, errno.EINVAL,
)  # fmt: skip
_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFREG: "a file",
}


class RecordError(UserError):
    """A run folder holds something that cannot be used: which file, and what is wrong with it."""


def kind(mode: int) -> str:
    """What a file's mode says it is: "a link", "a folder", …"""
    return _KINDS.get(stat.S_IFMT(mode), "a device")


def is_folder(path: Path) -> bool:
    """Whether there is a folder of that name which is no link."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False


def is_file(folder: Path, name: str) -> bool:
    """Whether `name`, relative to `folder`, is a regular file that no link leads to."""
    try:
        os.close(_open(folder, name))
    except (RecordError, OSError):
        return False
    return True


def read_bytes(folder: Path, name: str, most: int) -> bytes:
    """The regular file `name`, relative to `folder`, of at most `most` bytes; raises RecordError, and
    FileNotFoundError where there is none."""
    with os.fdopen(_open(folder, name), "rb") as file:
        return read_descriptor(file.fileno(), name, most)


def tensors_header(folder: Path, name: str) -> dict[str, Any]:
    """What a safetensors file begins with: its tensors, and its own words under "__metadata__"; raises as
    `read_bytes`."""
    with os.fdopen(_open(folder, name), "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = parse_json(file.read(min(length, HEADER_BYTES)))
    return header if isinstance(header, dict) else {}


def must_be_file(folder: Path, name: str) -> None:
    """Raises RecordError where `name` is no regular file of the folder, FileNotFoundError without one."""
    os.close(_open(folder, name))


def tail(folder: Path, name: str, most: int) -> bytes:
    """The last `most` bytes of a file; raises as `read_bytes`."""
    with os.fdopen(_open(folder, name), "rb") as file:
        file.seek(max(os.fstat(file.fileno()).st_size - most, 0))
        return file.read(most)


def read_record(folder: Path, name: str, form: TypeAdapter[Any], most: int) -> Any | None:
    """The JSON of a file that fits `form`, as plain data; None where there is no file. Raises RecordError."""
    try:
        data = read_bytes(folder, name, most)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return plain(name, data, form)


def plain(name: str, data: bytes, form: TypeAdapter[Any]) -> Any:
    """JSON that fits `form` as plain data; RecordError says of the file `name` what keeps it from that."""
    try:
        value = parse_json(data)
        form.validate_json(data, strict=True)
    except ValidationError as error:
        raise RecordError(f"{name}: {problem(error)}") from None
    except RecordError as error:
        raise RecordError(f"{name}: {error}") from None
    return value


def typed(name: str, data: bytes, form: TypeAdapter[Any]) -> Any:
    """JSON as `form` makes it, parsed once where a glance shows that there is nothing odd in it."""
    if not _unremarkable(data):
        plain(name, data, form)
    try:
        return form.validate_json(data, strict=True)
    except ValidationError:
        plain(name, data, form)  # says what of it in the same words as ever
        raise


def parse_json(data: bytes) -> Any:
    """Plain data from JSON, byte-order marks dropped; RecordError says what keeps it from being any."""
    try:
        text = data.decode().replace("\ufeff", "")
    except UnicodeDecodeError:
        raise RecordError("is not UTF-8") from None
    if not text.strip():
        raise RecordError("is empty")
    try:
        value = json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise RecordError("is nested too deeply") from None
    except ValueError as error:
        raise RecordError(_no_json(str(error))) from None
    if not _unremarkable(data):
        _check(value)
    return value


def _unremarkable(data: bytes) -> bool:
    """Whether nothing that `_check` looks for can be in this JSON."""
    return data.count(b"[") + data.count(b"{") <= DEPTH and has_plain_values(data)


def has_plain_values(data: bytes) -> bool:
    """Whether all numbers and texts of some JSON are sure to be such as `parse_json` lets pass."""
    if not data.isascii() or any(word in data for word in (b"\\u", b"NaN", b"Infinity")):
        return False
    shape = data.translate(_ZEROS)
    if _LONG in shape:
        return False
    return not any(mark in shape for mark in _STEEP) or not any(
        _MANTISSA.search(data, max(found.start() - 64, 0), found.start())
        for found in _EXPONENT.finditer(data)
    )


def problem(error: ValidationError) -> str:
    """The first thing that does not fit, in one short line."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return shown(f"{where}: {message}" if where else message)


def shown(text: str, most: int = 160) -> str:
    """Text of a file in one line of bounded length, without what a terminal would act on."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 2 * most]).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def names(folder: Path, name: str = "") -> list[str]:
    """What a folder inside of `folder` lists, sorted; nothing where it is missing, or a link."""
    try:
        descriptor = _open(folder, name, os.O_DIRECTORY) if name else os.open(folder, _PLAIN | os.O_DIRECTORY)
    except (OSError, RecordError):
        return []
    try:
        return sorted(os.listdir(descriptor))
    except OSError:
        return []
    finally:
        os.close(descriptor)


def _open(folder: Path, name: str, wanted: int = 0) -> int:
    """A descriptor of a file, or of a folder for O_DIRECTORY, that only folders lead to."""
    for last in (False, True):
        try:
            return _walk(folder, name, wanted)
        except (FileNotFoundError, RecordError):
            raise
        except (OSError, ValueError) as error:
            if not last and getattr(error, "errno", None) == errno.ESTALE:
                continue  # a file server that has just been given another file of the name
            if getattr(error, "errno", None) not in (*_OF_THE_FILE, None):
                raise  # of the disk, or of a file server: it says nothing of what is there
            why = getattr(error, "strerror", None) or str(error)
            raise RecordError(f"{name}: cannot be read ({why})") from None
    raise AssertionError


def _walk(folder: Path, name: str, wanted: int) -> int:
    *between, last = PurePath(name).parts
    at = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        for part in between:
            _must_be(part, os.lstat(part, dir_fd=at).st_mode, stat.S_IFDIR)
            inner = os.open(part, _PLAIN | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = inner
        expected = stat.S_IFDIR if wanted & os.O_DIRECTORY else stat.S_IFREG
        _must_be(name, os.lstat(last, dir_fd=at).st_mode, expected)
        descriptor = os.open(last, _PLAIN | wanted, dir_fd=at)
    finally:
        os.close(at)
    try:
        _must_be(name, os.fstat(descriptor).st_mode, expected)  # it may be another by now
    except RecordError:
        os.close(descriptor)
        raise
    return descriptor


def _must_be(name: str, mode: int, expected: int) -> None:
    if stat.S_IFMT(mode) != expected:
        raise RecordError(f"{name}: is {kind(mode)}, not {_KINDS[expected]}")


def read_descriptor(descriptor: int, name: str, most: int) -> bytes:
    """All that an open regular file holds, at most `most` bytes; RecordError otherwise."""
    about = os.fstat(descriptor)
    _must_be(name, about.st_mode, stat.S_IFREG)
    parts, left = [], most + 1
    while about.st_size <= most and left and (part := os.read(descriptor, min(left, 2**26))):
        parts.append(part)
        left -= len(part)
    if about.st_size > most or not left:
        raise RecordError(f"{name}: is larger than {most // 2**20} MiB")
    return b"".join(parts)


def _no_number(word: str) -> float:
    raise ValueError(f"holds {word}")


def _no_json(message: str) -> str:
    if message.startswith("holds"):
        return message
    if message.startswith("Exceeds the limit"):
        return "holds a number of thousands of digits"
    return f"is no whole JSON ({shown(message, 80)})"


def _check(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH):
        deeper: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                deeper += each.keys()
                deeper += each.values()
            elif isinstance(each, list):
                deeper += each
            elif isinstance(each, str):
                _check_text(each)
            elif isinstance(each, float) and not math.isfinite(each):
                raise RecordError("holds a number that is not finite")
            elif isinstance(each, int) and abs(each) > LARGEST:
                raise RecordError("holds a number of more than 64 bits")
        if not deeper:
            return
        level = deeper
    raise RecordError("is nested too deeply")


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RecordError("holds half of a character") from None
    if "\0" in text:
        raise RecordError("holds a NUL character")
