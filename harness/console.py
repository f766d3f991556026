"""Where everything is printed that comes from data: text is shown as it is, and never read as markup."""

from __future__ import annotations

import sys
from typing import Any, TextIO

import rich.console
from rich.text import Text

from harness.text import plain


class Console(rich.console.Console):
    """Rich's console for texts of others, in tables too: brackets, colons and escapes mean nothing to it."""

    def __init__(self, **options: Any):
        never = {"markup": False, "emoji": False}
        chosen: dict[str, Any] = {"highlight": False, **options, **never}
        super().__init__(**chosen)

    def render_str(self, text: str, **options: Any) -> Text:
        """Every string that is printed comes by here."""
        never: dict[str, Any] = {"markup": False, "emoji": False}
        return super().render_str(plain(text, lines=True), **(options | never))


def say(text: str, file: TextIO | None = None) -> None:
    """Print lines that hold texts of others."""
    print(plain(text, lines=True), file=file or sys.stdout, flush=True)
