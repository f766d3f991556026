"""The command line, a file for each group of commands: thin, importing what they need when they run."""

from __future__ import annotations

import io
import os
import sys

import typer
from typer.exceptions import TyperException

# Their commands, in the order that --help lists them in.
from harness.cli import sweep, runs, study, votes, evaluation, report, objects  # noqa: F401 # isort: skip
from harness.cli import methods, machine, slurm, toyworld  # noqa: F401 # isort: skip
from harness.cli.app import INTERRUPTED, app
from harness.config import UserError
from harness.threads import wait_asleep


def _with_a_profile(arguments: list[str]) -> list[str]:
    """`--slurm` alone means the one profile of your own; Typer knows no option with an optional value."""
    for at, word in enumerate(arguments):
        following = arguments[at + 1 : at + 2]
        if word == "--slurm" and (
            not following or following[0].startswith("-") or following[0].endswith(".txt")
        ):
            from slurm.profile import default

            return [*arguments[: at + 1], default(), *arguments[at + 1 :]]
    return arguments


def main() -> None:
    """Entry of the `harness` command: every error of the user's is one line on stderr, and exit code 2."""
    wait_asleep()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a locale that lacks a letter ends nothing
    try:
        code = app(_with_a_profile(sys.argv[1:]), standalone_mode=False)
    except UserError as error:
        code = _complain(str(error))
    except TyperException as error:
        # Typer's own: a mistyped command or option, a value that does not parse.
        code = _complain(error.format_message()) if error.format_message() else 2
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the interpreter's last flush does not fail too
        code = 0
    sys.exit(code)


def _complain(message: str) -> int:
    print("harness: " + " ".join(message.split()), file=sys.stderr)
    return 2
