"""Ways to damage a file of a run, each under a name; what is random comes from the `dice` it is given."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Damage = Callable[[Path, Path, random.Random], None]  # the file, a folder outside of the runs, the dice

NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 3, 10**400, -(2**70), 2**31, 1e308, -1e-320, 0.5, "", "3", "nan", [], {}, [[]],
    [None], {"a": 1}, [1, 2], "../../outside", "/etc/passwd", "[/red]", "a\nb\x1b[31m", "\ud800", "\0",
    "x" * 70_000,
)  # fmt: skip


def _gone(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def missing(path: Path, outside: Path, dice: random.Random) -> None:
    _gone(path)


def _bytes(make: Callable[[bytes, random.Random], bytes]) -> Damage:
    def damage(path: Path, outside: Path, dice: random.Random) -> None:
        data = path.read_bytes() if path.is_file() else b""
        _gone(path)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(make(data, dice))

    return damage


def _flipped(data: bytes, dice: random.Random) -> bytes:
    found = bytearray(data or b"\0")
    for _ in range(dice.randint(1, 8)):
        found[dice.randrange(len(found))] = dice.randrange(256)
    return bytes(found)


def _mutated(data: bytes, dice: random.Random) -> bytes:
    """JSON with one of its values replaced, added, or removed; of JSON lines one of them so."""
    lines = data.split(b"\n")
    at = dice.randrange(len(lines)) if data.startswith(b'{"step"') else None
    try:
        value = json.loads(data if at is None else lines[at])
    except ValueError:
        return _flipped(data, dice)
    nasty = dice.choice(NASTY)
    here, place = value, None
    while isinstance(here, dict | list) and here and (place is None or dice.random() < 0.7):
        place = here
        key = dice.choice(list(here)) if isinstance(here, dict) else dice.randrange(len(here))
        here = here[key]
    if place is None:
        value = nasty
    elif dice.random() < 0.15:
        del place[key]
    elif dice.random() < 0.1 and isinstance(place, dict):
        place[str(nasty)[:50]] = nasty
    else:
        place[key] = nasty
    text = json.dumps(value).encode()
    return text if at is None else b"\n".join([*lines[:at], text, *lines[at + 1 :]])


def _huge(path: Path, outside: Path, dice: random.Random) -> None:
    _gone(path)
    with open(path, "wb") as file:  # sparse: larger than any disk here
        file.truncate(2**41)


def _folder(path: Path, outside: Path, dice: random.Random) -> None:
    _gone(path)
    (path / "inside").mkdir(parents=True)


def _fifo(path: Path, outside: Path, dice: random.Random) -> None:
    _gone(path)
    os.mkfifo(path)


def _link(to: Callable[[Path, Path], Path | str]) -> Damage:
    def damage(path: Path, outside: Path, dice: random.Random) -> None:
        target = to(path, outside)
        _gone(path)
        path.symlink_to(target)

    return damage


def _moved_out(path: Path, outside: Path, dice: random.Random) -> None:
    """The very thing, somewhere else, and a link to it: whoever writes through it writes outside."""
    target = outside / "moved"
    if path.exists():
        os.rename(path, target)
    _gone(path)
    path.symlink_to(target)


DAMAGES: dict[str, Damage] = {
    "missing": missing,
    "empty": _bytes(lambda data, dice: b""),
    "truncated": _bytes(lambda data, dice: data[: dice.randrange(len(data) or 1)]),
    "flipped": _bytes(_flipped),
    "random": _bytes(lambda data, dice: dice.randbytes(dice.choice((1, 64, 4096, 300_000)))),
    "mutated": _bytes(_mutated),
    "mutated again": _bytes(_mutated),
    "mutated once more": _bytes(_mutated),
    "not a number": _bytes(lambda data, dice: b'{"step": NaN, "total": Infinity, "steps": -Infinity}\n'),
    "400 digits": _bytes(lambda data, dice: b'{"step": %s, "total": 1e999}\n' % (b"7" * 400)),
    "5000 digits": _bytes(lambda data, dice: b'{"step": %s}\n' % (b"7" * 5000)),
    "deep list": _bytes(lambda data, dice: b"[" * 200_000),
    "deep object": _bytes(lambda data, dice: b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\n"),
    "deep row": _bytes(lambda data, dice: b'{"step": 1, "a": %s1%s}\n' % (b"[" * 500, b"]" * 500)),
    "wrong type": _bytes(lambda data, dice: json.dumps(dice.choice(NASTY)).encode() + b"\n"),
    "zeros": _bytes(lambda data, dice: bytes(len(data) or 100)),
    "UTF-16": _bytes(lambda data, dice: data.decode("latin-1").encode("utf-16")),
    "huge": _huge,
    "folder": _folder,
    "FIFO": _fifo,
    "link outside": _link(lambda path, outside: outside / "secret.txt"),
    "link to a folder outside": _link(lambda path, outside: outside / "tree"),
    "link to itself": _link(lambda path, outside: path.name),
    "link to nothing": _link(lambda path, outside: outside / "nothing"),
    "link to a device": _link(lambda path, outside: "/dev/zero"),
    "moved out": _moved_out,
}
