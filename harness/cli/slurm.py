"""`harness slurm`: profiles of sites."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Exit, Option

from harness.cli.app import complete_profiles, profile_app, slurm_app


@slurm_app.command(name="check", epilog="Example: harness slurm check a100")
def slurm_check(
    name: Annotated[str, Argument(help="A profile, or its file.", autocompletion=complete_profiles)],
    as_json: Annotated[bool, Option("--json", help="Print JSON.")] = False,
) -> None:
    """What the site accepts of a profile, before anything is submitted; exit 1 where it refuses."""
    from slurm.sbatch import check

    raise Exit(0 if check(name, as_json) else 1)


@profile_app.command(name="new", epilog="Example: harness slurm profile new a100")
def slurm_profile_new(name: Annotated[str, Argument(help="Its name.")]) -> None:
    """Write a profile with comments into ./slurm-profiles."""
    from slurm.profile import new

    print(f"{new(name)} written; edit it, then: harness slurm check {name}")


@profile_app.command(name="list", epilog="Example: harness slurm profile list")
def slurm_profile_list() -> None:
    """The profiles there are."""
    from slurm.profile import names

    for name, path in sorted(names().items()):
        print(f"{name:<12} {path}")
