"""What the votes of a preference study say, and a judge in the place of its raters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from typer import Option

from harness.cli.app import ClipName, Device, Study, expanded, file_out, into, study_app
from harness.console import busy

Judge = Annotated[
    str, Option(metavar="NAME", help="The votes of this judge, in the place of people's; clip where one is.")
]


@study_app.command(epilog="Example: harness study results runs/studies/preference")
def results(
    study: Study,
    judge: Judge = "",
    out: Annotated[
        Path | None, into("Where tables go; STUDY/results or STUDY/results-judge-NAME by default.")
    ] = None,
) -> None:
    """Win rates with intervals, ranking, agreement and excluded raters, as md, csv, tex and json."""
    with busy("loading libraries"):
        from eval.preference.results import write_results
        from eval.preference.votes import load_ballots
        from eval.tables.table import console_for_tables

    write_results(load_ballots(study, judge), out, console_for_tables())


@study_app.command(epilog="Example: harness study export runs/studies/preference --out votes.parquet")
def export(
    study: Study,
    judge: Judge = "",
    out: Annotated[Path, Option(help="A .parquet or .csv file.", callback=file_out)] = Path("votes.csv"),
) -> None:
    """Every answer as one tidy table, without links, names or times of day."""
    with busy("loading libraries"):
        from eval.preference.results import export_votes
        from eval.preference.votes import load_ballots

    frame = export_votes(load_ballots(study, judge), out)
    print(f"{len(frame)} answers of {frame['rater'].nunique()} raters in {out}")


@study_app.command(
    name="judge", epilog="Example: harness study judge runs/studies/preference --clip toy-clip"
)
def judge_(
    study: Study,
    judge: Annotated[Literal["clip"], Option(help="What judges.")] = "clip",
    clip: ClipName = "toy-clip",
    runs: Annotated[
        Path | None, Option(help="The folder of runs, where it is no longer where it was.", callback=expanded)
    ] = None,
    device: Device = "auto",
) -> None:
    """The same study with a CLIP scorer as its rater, in a database of its own, labelled so; no people."""
    with busy("loading libraries") as more:
        from eval.preference.judge import judge_by_clip

        more("and scoring views")
        name = judge_by_clip(study, clip, device, runs)
    results(study, name)
