"""What a sweep can be made of: methods, families of priors, presets."""

from __future__ import annotations

import json
import shlex
import tempfile
from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from harness.cli.app import MethodsDir, app, complete_methods, expanded, into
from harness.config import UserError
from harness.console import busy
from harness.presets import DEFAULT


@app.command(epilog="Example: harness methods csd")
def methods(
    name: Annotated[
        str | None,
        Argument(
            help="One of them: its equations, settings, presets and cost.", autocompletion=complete_methods
        ),
    ] = None,
    page: Annotated[bool, Option("--page", help="All of them as docs/methods.md has them.")] = False,
    results: Annotated[
        Path | None,
        Option(help="--page: folders of `reproduce --out`, for figures of the toy world.", callback=expanded),
    ] = None,
    methods_dir: MethodsDir = [],  # noqa: B006
) -> None:
    """The methods there are, by the first line of their docstrings."""
    from harness.distill.method import discover, in_full

    if results and not page:
        raise UserError("--results goes with --page")
    if name is not None or page:
        from harness.distill import catalogue

        with busy("loading methods"):
            whole = in_full(name, methods_dir) if name is not None else ""
            text = catalogue.about(whole, methods_dir) if whole else catalogue.page(methods_dir, results)
        print(text, end="")
        return
    found = discover(methods_dir)
    width = max(map(len, found), default=0)
    for name, folder in sorted(found.items()):
        print(f"{name:<{width}}  {folder.summary}")


@app.command(name="check-method", epilog="Example: harness check-method my_sds --methods-dir ~/my-methods")
def check_method(
    name: Annotated[str, Argument(help="The method, name:preset, or a@b.", autocompletion=complete_methods)],
    methods_dir: MethodsDir = [],  # noqa: B006
) -> None:
    """Try whether a method keeps what all do: settings, timesteps, bits, evaluations."""
    from harness.sweep.grid import choose_methods

    dirs = tuple(each.resolve() for each in methods_dir)
    with busy("loading libraries"):
        choose_methods(name, [], dirs)
        from harness.check.method import CHECKS, Trial
        from harness.check.runs import tell

    with tempfile.TemporaryDirectory(prefix="harness-check-") as folder:
        kept = tell(Trial(name, Path(folder), dirs), CHECKS)
    raise Exit(0 if kept else 1)


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
        Argument(help="One of them, or a .toml file: each setting that differs from the defaults."),
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


@app.command(epilog="Example: harness settings paper")
def settings(
    preset: Annotated[
        str, Argument(help="Whose values: one of `harness presets`, or a .toml file.")
    ] = DEFAULT,
    as_json: Annotated[bool, Option("--json", help="Print JSON.")] = False,
) -> None:
    """Every key of --set with its value under a preset, what it means, and where the value comes from."""
    from rich.table import Table

    from harness.console import Console
    from harness.presets import settings as every

    found = every(preset)
    if as_json:
        print(json.dumps([each._asdict() for each in found], indent=2, ensure_ascii=False))
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for head, whole in (("key", True), ("value", False), ("meaning", False), ("from", False)):
        table.add_column(head, no_wrap=whole, overflow="fold")
    for each in found:
        table.add_row(each.key, json.dumps(each.value, ensure_ascii=False), each.meaning, each.source)
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 160)
    console.print(table)
    print("a method's own, METHOD.key: harness methods METHOD; a scene's own, scene.KIND.key: harness scenes")


@app.command(name="new-method", epilog="Example: harness new-method my_sds --dir methods")
def new_method(
    name: Annotated[str, Argument(help="The method's name: lower-case letters, digits and _.")],
    directory: Annotated[
        Path | None, into("Where to; in a checkout its methods, else ./methods.", "--dir")
    ] = None,
    schedule: Annotated[
        bool, Option("--schedule", help="SDS with timesteps of its own: one function.")
    ] = False,
) -> None:
    """Write the folder of a new method, or schedule, that runs as it stands."""
    from harness.distill.method import BUILT_IN
    from harness.distill.method import new_method as write

    where = BUILT_IN if (BUILT_IN.parent / "pyproject.toml").is_file() else Path("methods")
    path = write(name, directory or where, schedule)
    is_built_in = path.parent.resolve() == BUILT_IN
    dirs = "" if is_built_in else f" --methods-dir {shlex.quote(str(path.parent))}"
    far = is_built_in and not Path.cwd().is_relative_to(BUILT_IN.parent)
    place = ", in the checkout that this harness runs from (--dir methods is here)" if far else ""
    print(f"{path} written{place}; try it: harness sweep smoke --methods {name} --steps 50{dirs}")
