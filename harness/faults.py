"""What becomes of an error that nobody foresaw: one line for people, and a file that holds the rest."""

from __future__ import annotations

import os
import tempfile
import traceback

from harness.config import named_line

SHOW = "HARNESS_TRACEBACK"  # set in the environment: tracebacks are shown where they happen
INTERRUPTED = 130  # the exit code of what Ctrl-C ended, as shells have it


def told(error: BaseException) -> str:
    """One line on an error, and where its traceback is: a new file that only this user can read."""
    line = f"unexpected {named_line(error)}"
    try:
        descriptor, path = tempfile.mkstemp(prefix="harness-traceback-", suffix=".txt")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(traceback.format_exception(error))
    except OSError:
        return f"{line}; its traceback could not be saved, {SHOW}=1 shows it"
    return f"{line}; please report it with {path}"


def is_shown() -> bool:
    """Whether the user asked for tracebacks."""
    return bool(os.environ.get(SHOW))
