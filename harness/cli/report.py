"""Pages to look at: a report on disk, and the same pages live."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from harness.cli.app import (
    AllowMixed,
    ClipName,
    Device,
    Filter,
    MetricsDir,
    Runs,
    Samples,
    ScenesDir,
    Source,
    app,
    into,
)
from harness.cli.evaluation import runs_and_results
from harness.config import UserError
from harness.console import busy, say
from harness.records.folder import run_folders
from harness.sweep.select import check_pools

Open = Annotated[bool, Option("--open", help="Open it in the browser.")]


@app.command(epilog="Example: harness report runs --open")
def report(
    runs: Source = "runs",
    words: Filter = [],  # noqa: B006
    out: Annotated[
        Path | None, into("Where it goes; RUNS/eval/report or wandb-GROUP/report by default.")
    ] = None,
    open_: Open = False,
    clip: ClipName = "toy-clip",
    device: Device = "auto",
    allow_mixed: AllowMixed = False,
    prior_samples: Samples = None,
    metrics_dir: MetricsDir = [],  # noqa: B006
    scenes_dir: ScenesDir = [],  # noqa: B006
) -> None:
    """Pages that open from disk: tables, curves, every run, any two side by side.

    Runs without a pool in common are shown, too: without tables and curves.
    """
    import webbrowser

    folder, where, only = runs_and_results(runs, out, "report", words, None)
    apart = _apart(folder, only, allow_mixed)
    with busy("loading libraries"):
        from eval.report.results import results, truth
        from eval.report.write import write_report
        from harness.reproduce import evaluated_runs

    options = {"clip": clip, "device": device, "allow_mixed": allow_mixed, "samples": prior_samples}
    options |= {"metrics_dirs": metrics_dir, "only": only, "chosen": words}
    study = cache(lambda: evaluated_runs(folder, **options))

    def numbers() -> dict[str, Any]:
        return {"notes": [apart]} if apart else results(study())

    def known() -> Mapping[str, Any]:
        return {} if apart else truth(study())

    index = write_report(folder, where, numbers, only=only, truth=known)
    print(index)
    if open_:
        webbrowser.open(index.resolve().as_uri())


def _apart(folder: Path, only: Collection[str] | None, allow_mixed: bool) -> str:
    """Why these runs have no numbers side by side, which is told; "" where they share a pool."""
    try:
        check_pools([run for run in run_folders(folder) if only is None or run.id in only], allow_mixed)
    except UserError as error:
        apart = f"no tables and curves: {error}"
        say(apart, sys.stderr)
        return apart
    return ""


@app.command(epilog="Example: harness watch runs --open")
def watch(
    runs: Runs = Path("runs"),
    port: Annotated[int, Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    open_: Open = False,
) -> None:
    """The report's pages live while a sweep runs, for this machine only; Ctrl-C ends it."""
    from eval.report.live import watch as serve

    serve(runs, port, open_)
