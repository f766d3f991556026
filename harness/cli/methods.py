"""What a sweep can be made of: methods, families of priors, presets."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.app import MethodsDir, app, folder_out


@app.command(epilog="Example: harness methods csd")
def methods(
    name: Annotated[
        str | None,
        typer.Argument(help="One of them: its equations, settings, presets and cost."),
    ] = None,
    page: Annotated[bool, typer.Option("--page", help="All of them as docs/methods.md has them.")] = False,
    methods_dir: MethodsDir = [],  # noqa: B006
) -> None:
    """The methods there are, by the first line of their docstrings."""
    from harness.distill.method import discover

    if name is not None or page:
        from harness.distill import catalogue

        print(catalogue.about(name, methods_dir) if name is not None else catalogue.page(methods_dir), end="")
        return
    found = discover(methods_dir)
    width = max(map(len, found), default=0)
    for name, folder in sorted(found.items()):
        print(f"{name:<{width}}  {folder.summary}")


@app.command(name="check-method", epilog="Example: harness check-method my_sds --methods-dir ~/my-methods")
def check_method(
    name: Annotated[str, typer.Argument(help="The method, name:preset, or a@b.")],
    methods_dir: MethodsDir = [],  # noqa: B006
) -> None:
    """Try whether a method keeps what all do: settings, timesteps, bits, evaluations."""
    from harness.check.method import CHECKS, Trial
    from harness.check.runs import tell
    from harness.sweep.grid import choose_methods

    dirs = tuple(each.resolve() for each in methods_dir)
    choose_methods(name, [], dirs)
    with tempfile.TemporaryDirectory(prefix="harness-check-") as folder:
        kept = tell(Trial(name, Path(folder), dirs), CHECKS)
    raise typer.Exit(0 if kept else 1)


@app.command(name="families", epilog="Example: harness families")
def families_() -> None:
    """The families of priors there are, those of $HARNESS_FAMILIES among them, and their architectures."""
    from harness.guidance.family import families

    for pipeline, family in sorted(families().items()):
        print(f"{pipeline:<{max(map(len, families()))}}  {', '.join(family.architectures)}")


@app.command(epilog="Example: harness presets paper")
def presets(
    name: Annotated[
        str | None,
        typer.Argument(help="One of them, or a .toml file: each setting that differs from the defaults."),
    ] = None,
) -> None:
    """The presets of settings there are, and what each changes."""
    from harness.presets import load, names

    if name is not None:
        shown = load(name)
        print(f"# {shown.title}; scorers {', '.join(shown.scorers)}")
        for key, value in shown.changes.items():
            print(f"{key} = {json.dumps(value, ensure_ascii=False)}")
        return
    for each in names():
        shown = load(each)
        print(f"{each:<{max(map(len, names()))}}  {shown.title}; {len(shown.changes)} settings differ")


@app.command(name="new-method", epilog="Example: harness new-method my_sds --dir methods")
def new_method(
    name: Annotated[str, typer.Argument(help="The method's name: lower-case letters, digits and _.")],
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="Where to; the built-in methods by default.", callback=folder_out),
    ] = None,
    schedule: Annotated[
        bool, typer.Option("--schedule", help="SDS with timesteps of its own: one function.")
    ] = False,
) -> None:
    """Write the folder of a new method, or schedule, that runs as it stands."""
    from harness.distill.method import BUILT_IN
    from harness.distill.method import new_method as write

    path = write(name, directory or BUILT_IN, schedule)
    dirs = f" --methods-dir {path.parent}" if directory and path.parent.resolve() != BUILT_IN else ""
    print(f"{path} written; try it: harness sweep prompts/smoke.txt --methods {name} --steps 50{dirs}")
