"""The command line, a file for each group of commands: thin, importing what they need when they run."""

from __future__ import annotations

import atexit
import errno
import io
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Any, NoReturn, TypeGuard

import typer
from typer.exceptions import TyperException

# Their commands, in the order that --help lists them in.
from harness.cli import sweep, runs, study, votes, evaluation, report, objects  # noqa: F401 # isort: skip
from harness.cli import methods, scenes, machine, search, slurm, toyworld  # noqa: F401 # isort: skip
from harness.cli.app import app
from harness.config import UserError
from harness.faults import INTERRUPTED, is_shown, told
from harness.home import parts_first
from harness.text import plain, short
from harness.threads import wait_asleep


def _with_a_profile(arguments: list[str]) -> list[str]:
    """`--slurm` alone means the one profile of your own; Typer knows no option with an optional value."""
    for at, word in enumerate(arguments):
        if word == "--slurm" and not _names_a_profile(*arguments[at + 1 : at + 2]):
            from slurm.profile import default

            return [*arguments[: at + 1], default(), *arguments[at + 1 :]]
    return arguments


def _names_a_profile(word: str = "-") -> bool:
    """Whether the word after `--slurm` is its value, a mistyped one too, and no option, suite or search."""
    from harness.search.definition import names as searches
    from harness.sweep.grid import suites
    from slurm.profile import names

    is_file = word.endswith(".txt") or (os.path.isfile(word) and not word.endswith(".toml"))
    is_other = is_file or ".csv:" in word.lower() or word in [*suites(), *searches()]
    return word in names() or not (word.startswith("-") or is_other)


def main() -> None:
    """Entry of the `harness` command: an error of the user's is one line on stderr and exit code 2, any other
    one line with the file of its traceback and exit code 1."""
    wait_asleep()
    parts_first()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # bytes that are no UTF-8, locales without ×
            stream.reconfigure(errors="backslashreplace")
    threading.excepthook = _thread_failed
    try:
        code = _run(_with_a_profile(sys.argv[1:]))
        sys.stdout.flush()
    except UserError as error:
        code = _complain(str(error))
    except TyperException as error:
        # Typer's own: a mistyped command or option, a value that does not parse.
        message = error.format_message().replace("Value error, ", "")
        code = _complain(message) if message else 2
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except BrokenPipeError:
        code = _nobody_reads()
    except SystemExit as end:  # Typer's, for a reader that left
        code = _nobody_reads() if type(sys.stdout).__name__ == "PacifyFlushWrapper" else end.code
    except Exception as error:
        if is_shown():
            raise
        code = _complain(f"{error.filename}: {error.strerror}") if _is_of_a_place(error) else _failed(error)
    sys.exit(code)


def command() -> NoReturn:
    """`main` as a process, which ends with it: taking hundreds of loaded modules apart takes seconds, and
    nobody needs it. Threads are waited for, and what was registered for the exit is done."""
    code: Any = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    code = code or 0
    try:
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
        atexit._run_exitfuncs()
    except Exception as error:
        code = code or _failed(error)
    except KeyboardInterrupt:
        code = INTERRUPTED
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 1
    os._exit(code)


def _run(arguments: list[str]) -> Any:
    try:
        return app(arguments, standalone_mode=False)
    except TyperException as error:
        if type(error).__name__ != "NoArgsIsHelpError":  # of a module of Typer's own
            raise
        print(error.format_message())
        return 0


def _nobody_reads() -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the interpreter's last flush does not fail too
    return 128 + signal.SIGPIPE


def _is_of_a_place(error: Exception) -> TypeGuard[OSError]:
    """Whether a name, a mode or a disk is at fault, and no program."""
    return isinstance(error, OSError) and error.filename is not None and error.errno in OF_PLACES


OF_PLACES = {
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
}


def _failed(error: BaseException) -> int:
    _complain(told(error))
    return 1


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    if is_shown() or failed.exc_value is None:
        threading.__excepthook__(failed)
    else:
        _failed(failed.exc_value)


def _complain(message: str) -> int:
    with suppress(OSError):  # nobody listens any more
        print("harness: " + short(" ".join(plain(message).split())), file=sys.stderr)
    return 2
