"""Text of others (prompts, labels, reasons, paths) as plain text, and never as commands to what shows it."""

from __future__ import annotations

import json
import re
from typing import Any

# Controls, line and paragraph separators, marks that turn the direction of what follows, halves of surrogate
# pairs (bytes of a name that are no UTF-8), and what is no character at all.
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_BLANKS = frozenset("\t\n\v\f\r\x85\u2028\u2029")


def plain(text: object, *, lines: bool = False) -> str:
    """`text` without what a terminal, a page or a file header would act on.

    Breaks and tabs become blanks (`lines` keeps line breaks), other controls become readable escapes.
    """

    def shown(found: re.Match[str]) -> str:
        char = found[0]
        if char in _BLANKS:
            return char if lines and char == "\n" else " "
        return char.encode("unicode_escape").decode()

    return _UNSEEN.sub(shown, str(text))


def short(text: str, length: int = 600) -> str:
    """At most so many characters: the beginning and the end of a longer text."""
    half = (length - 3) // 2
    return text if len(text) <= length else f"{text[:half]} … {text[-half:]}"


def size(count: float) -> str:
    """Bytes as people write them: "345 B", "1.2 kB", "3.4 GB"."""
    unit, *larger = ("B", "kB", "MB", "GB", "TB")
    while count >= 999.5 and larger:
        count, unit = count / 1000, larger.pop(0)
    return f"{count:.0f} {unit}" if unit == "B" or count >= 99.95 else f"{count:.1f} {unit}"


def parse_json(data: str | bytes) -> Any:
    """What JSON says; ValueError for what is none, also where it is nested too deep to be read."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("brackets too deep") from None
