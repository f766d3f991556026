"""Where everything is printed that comes from data: text is shown as it is, and never read as markup."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import rich.console
from rich.text import Text

from harness.text import plain

_NEVER: dict[str, Any] = {"markup": False, "emoji": False}


class Console(rich.console.Console):
    """Rich's console for texts of others, in tables too: brackets, colons and escapes mean nothing to it."""

    def __init__(self, **options: Any):
        options.setdefault("highlight", False)
        super().__init__(**(options | _NEVER))

    def render_str(self, text: str, **options: Any) -> Text:
        """Every string that is printed comes by here."""
        return super().render_str(plain(text, lines=True), **(options | _NEVER))


_shown: list[Any] = []  # the one status line of this process, while it is there


@contextmanager
def busy(text: str) -> Iterator[Callable[[str], None]]:
    """A line on a terminal that says what is being done, while it is; what it yields says more of it.

    It is on stderr. Nothing where stderr is no terminal. Inside another one it takes its place for a while.
    """
    if _shown:
        status, before = _shown[0], _shown[0].status
        status.update(Text(plain(text)))
        try:
            yield lambda more: status.update(Text(plain(f"{text} {more}")))
        finally:
            status.update(before)
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda more: None
        return
    with console.status(Text(plain(text))) as status:
        _shown.append(status)
        try:
            yield lambda more: status.update(Text(plain(f"{text} {more}")))
        finally:
            _shown.clear()


def say(text: str, file: TextIO | None = None) -> None:
    """Print lines that hold texts of others."""
    print(plain(text, lines=True), file=file or sys.stdout, flush=True)


def say_some(lines: Sequence[str], more: str = "… and {} more", file: TextIO | None = None) -> None:
    """Print the first ten of lines that hold texts of others, and how many more there are."""
    for line in lines[:10]:
        say(line, file)
    if len(lines) > 10:
        say(more.format(len(lines) - 10), file)
