"""Tables, figures and named experiments; other people's renders in, logs out."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from typer import Argument, Exit, Option

from harness.cli.app import (
    AllowMixed,
    ClipName,
    Device,
    DryRun,
    Encoder,
    FiguresDir,
    Filter,
    MetricsDir,
    RunsOption,
    Samples,
    ScenesDir,
    Source,
    Wandb,
    app,
    complete_experiments,
    complete_figures,
    complete_tables,
    expanded,
    file_out,
    into,
)
from harness.config import UserError
from harness.console import busy, say, say_some
from harness.records.files import check_file, check_folder
from harness.records.folder import run_folders
from harness.sweep.select import check_pools, select
from harness.text import short


def _called(word: str) -> tuple[str, str]:
    name, equals, text = word.partition("=")
    if not equals or not name or not text:
        raise UserError(f"--name takes METHOD=TEXT, not '{short(word, 60)}'")
    return name, text


Format = Literal["parquet", "csv", "glb", "obj", "ply"]
WHICH = "Which; all that the runs allow by default. Words such as method=tp_sds or prompt=bus choose runs."


def runs_and_results(
    source: str, out: Path | None, below: str, words: Sequence[str] = (), allow_mixed: bool | None = False
) -> tuple[Path, Path, list[str] | None]:
    """The folder of runs, made from W&B where they are there; where results go unless `out` says it; and
    which runs fit the words, None for no words. Results of some never take the place of those of all.

    Raises UserError where they share no pool, unless `allow_mixed` is None: before anything is imported.
    """
    below = f"chosen/{below}" if words else below
    if source.startswith("hf:") or (Path(source) / "croissant.json").is_file():
        from eval.published.read import run_folders_of as restored

        with busy(f"reading {source}"):
            runs = restored(source)
        results = Path("published-" + source.rstrip("/").rpartition("/")[2], below)
    elif source.startswith("wandb:"):
        from eval.sources.wandb_runs import run_folders_of

        with busy(f"reading {source}"):
            runs, problems = run_folders_of(source)
        for problem in problems:
            say(f"left out: {problem}", sys.stderr)
        results = Path("wandb-" + source.rpartition("/")[2], below)
    else:
        runs = Path(source)
        results = runs / "eval" / below
    folders = run_folders(runs)  # a wrong name is told before anything is imported
    with busy("reading what runs there are"):
        folders = select(runs, words) if words else folders
        if allow_mixed is not None:
            check_pools(folders, allow_mixed)
    only = [folder.id for folder in folders] if words else None
    if out is None:
        check_folder(results)
    return runs, out or results, only


def filters(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names, and the words that choose runs: those with = or *."""
    chosen = [word for word in words if "=" in word or "*" in word]
    return [word for word in words if word not in chosen], chosen


@app.command(name="eval", epilog="Example: harness eval runs --out figures")
def evaluate(
    runs: Source = "runs",
    words: Filter = [],  # noqa: B006
    clip: ClipName = "toy-clip",
    out: Annotated[
        Path | None, into("Where tables and sheets go; RUNS/eval or wandb-GROUP by default.")
    ] = None,
    device: Device = "auto",
    allow_mixed: AllowMixed = False,
    scenes_dir: ScenesDir = [],  # noqa: B006
) -> None:
    """R-Precision of the stored views per method, with intervals, and a contact sheet."""
    folder, results, only = runs_and_results(runs, out, "", words, allow_mixed)
    with busy("loading libraries"):
        from eval.command import evaluate as run
        from harness.reproduce import evaluated_runs

    options = {"clip": clip, "device": device, "allow_mixed": allow_mixed}
    run(evaluated_runs(folder, **options, only=only, chosen=words), results)


@app.command(epilog="Example: harness tables runs convergence diversity")
def tables(
    runs: Source = "runs",
    names: Annotated[list[str], Argument(help=WHICH, autocompletion=complete_tables)] = [],  # noqa: B006
    clip: ClipName = "toy-clip",
    out: Annotated[
        Path | None, into("Where they go; RUNS/eval/tables or wandb-GROUP/tables by default.")
    ] = None,
    device: Device = "auto",
    allow_mixed: AllowMixed = False,
    scenes_dir: ScenesDir = [],  # noqa: B006
    prior_samples: Samples = None,
    metrics_dir: MetricsDir = [],  # noqa: B006
    contrast: Annotated[
        list[str],
        Option(
            metavar="'A vs B'",
            help="Two methods, as tables name them, for the table contrasts; several times.",
        ),
    ] = [],  # noqa: B006
) -> None:
    """Tables with intervals as md, csv and tex: R-Precision, convergence, diversity, failures, claims."""
    from eval.tables.names import check_names

    names, words = filters(names)
    check_names(names, metrics_dir)
    folder, results, only = runs_and_results(runs, out, "tables", words, allow_mixed)
    with busy("loading libraries"):
        from eval.command import write_tables
        from harness.reproduce import evaluated_runs

    options = {"clip": clip, "device": device, "allow_mixed": allow_mixed, "samples": prior_samples}
    options |= {"metrics_dirs": metrics_dir, "contrasts": [_pair(text) for text in contrast]}
    write_tables(evaluated_runs(folder, **options, only=only, chosen=words), names, results)


def _pair(text: str) -> tuple[str, str]:
    one, versus, other = text.partition(" vs ")
    if not versus or not one.strip() or not other.strip():
        raise UserError(f"--contrast {text}: two methods, such as 'tp_sds vs linear_decay'")
    return one.strip(), other.strip()


@app.command(epilog="Example: harness power runs --difference 5 --hours 10")
def power(
    runs: Source = "runs",
    words: Filter = [],  # noqa: B006
    difference: Annotated[
        list[float], Option(min=0, max=100, help="A difference to be shown, points; may be repeated.")
    ] = [5.0, 10.0, 20.0],  # noqa: B006
    ratio: Annotated[float, Option(help="A ratio of steps to be shown.")] = 0.65,
    seeds: Annotated[str, Option(help="Numbers of seeds to plan with.")] = "1,2,3,5",
    prompts: Annotated[
        int | None, Option(min=2, help="The most prompts to plan with; the suite's by default.")
    ] = None,
    spread: Annotated[
        str | None,
        Option(
            metavar="BETWEEN,WITHIN",
            help="Without runs: standard deviations of a pair's difference, in points, between prompts and "
            "between the seeds of a prompt.",
        ),
    ] = None,
    hours: Annotated[float | None, Option(help="A budget: what it can show at best.")] = None,
    seconds: Annotated[
        float | None, Option(help="What a run takes; as `harness bench methods` measured by default.")
    ] = None,
    methods: Annotated[
        int | None, Option(min=2, help="How many methods share the budget; the runs' by default.")
    ] = None,
    width: Annotated[
        float | None, Option(help="A half width of the interval, points: how many seeds it takes.")
    ] = None,
    clip: ClipName = "toy-clip",
    out: Annotated[Path | None, into("Write the tables there, too, as md, csv and tex.")] = None,
    device: Device = "auto",
    allow_mixed: AllowMixed = False,
) -> None:
    """How many prompts and seeds show a difference, and what the runs at hand could have shown."""
    from harness.sweep.grid import parse_seeds

    numbers = parse_seeds(seeds)
    folder, only = Path(), None
    if spread is None:
        folder, _, only = runs_and_results(runs, out, "power", words, allow_mixed)
    with busy("loading libraries"):
        from eval.tables import power as program
        from eval.tables.table import console_for_tables, tell

    plan = program.Plan(tuple(difference), ratio, numbers, prompts or 153, width=width)
    if spread is None:
        with busy("loading libraries"):
            from harness.reproduce import evaluated_runs

        options = {"clip": clip, "device": device, "allow_mixed": allow_mixed}
        found = evaluated_runs(folder, **options, only=only, chosen=words)
        plan = program.planned_with(plan, found, prompts, hours, seconds, methods)
        with busy("what these runs can show"):
            tables, lines = program.of_runs(found, plan)
            stamp = found.stamp
    else:
        if out is not None or (hours is not None and (seconds is None or methods is None)):
            raise UserError("--spread plans without runs: --hours needs --seconds and --methods; no --out")
        assumed = program.spread_named(spread)
        if hours is not None:
            assert seconds is not None and methods is not None
            plan = replace(plan, budget=program.runs_in(hours, seconds, methods))
        tables, lines, stamp = [program.needed(assumed, plan)], program.advice(assumed, plan), None
    console = console_for_tables()
    tell(tables, stamp, console, out)
    for line in lines:
        console.print(line, soft_wrap=True)


@app.command(epilog="Example: harness metrics --metrics-dir mine")
def metrics(
    metrics_dir: MetricsDir = [],  # noqa: B006
    markdown: Annotated[bool, Option("--markdown", help="As docs/protocol.md has them.")] = False,
) -> None:
    """The metrics that tables are made of, each one file."""
    if markdown:
        with busy("loading libraries"):
            from eval.metric import definitions

        print(definitions(metrics_dir), end="")
        return
    from eval.metrics import SEAM

    found = SEAM.discover(metrics_dir)
    for name, metric in found.items():
        print(f"{name:<{max(map(len, found))}}  {metric.summary}")


@app.command(epilog="Example: harness figures runs r_precision seeds_grid --out figures")
def figures(
    runs: Source = "runs",
    names: Annotated[list[str], Argument(help=WHICH, autocompletion=complete_figures)] = [],  # noqa: B006
    clip: ClipName = "toy-clip",
    out: Annotated[
        Path | None, into("Where they go; RUNS/eval/figures or wandb-GROUP/figures by default.")
    ] = None,
    device: Device = "auto",
    allow_mixed: AllowMixed = False,
    scenes_dir: ScenesDir = [],  # noqa: B006
    prior_samples: Samples = None,
    figures_dir: FiguresDir = [],  # noqa: B006
    width: Annotated[
        float | None, Option(min=1, max=50, help="Inches of a chart; by default a column's.")
    ] = None,
    font: Annotated[str, Option(help="An installed font; DejaVu Sans by default.")] = "",
    footnote: Annotated[
        bool, Option("--footnote/--no-footnote", help="Say under each what it rests on.")
    ] = True,
    display_names: Annotated[
        bool, Option("--display-names", help="Methods as their authors write them, such as TP-SDS.")
    ] = False,
    called: Annotated[
        list[str], Option("--name", metavar="METHOD=TEXT", help="Call a method so; several times.")
    ] = [],  # noqa: B006
) -> None:
    """Figures as pdf and png, each with a manifest of the runs that made it."""
    from eval.figures.kinds import SEAM

    names, words = filters(names)
    for name in names:
        SEAM.find(name, figures_dir)
    folder, results, only = runs_and_results(runs, out, "figures", words, allow_mixed)
    with busy("loading libraries"):
        from eval.figures.style import NAMES, Choices
        from eval.figures.write import write_figures
        from harness.reproduce import evaluated_runs

    own = dict(_called(word) for word in called)
    choices = Choices(width, font, footnote, (NAMES if display_names else {}) | own)
    options = {"clip": clip, "device": device, "allow_mixed": allow_mixed, "samples": prior_samples}
    flags = _flags(
        clip=clip if clip != "toy-clip" else None,
        allow_mixed=allow_mixed,
        prior_samples=prior_samples,
        width=width,
        font=font or None,
        no_footnote=not footnote,
        display_names=display_names,
        name=called,
        figures_dir=figures_dir,
        scenes_dir=scenes_dir,
    )
    command = shlex.join(["harness", "figures", runs, *names, *words, *flags])
    study = evaluated_runs(folder, **options, only=only, chosen=words)
    for path in write_figures(study, names, results, command, dirs=figures_dir, choices=choices):
        print(path)


def _flags(**asked: Any) -> list[str]:
    """Options as a command line has them: lists once for each, True alone; without None and False."""
    found = []
    for key, value in asked.items():
        for each in value if isinstance(value, list) else [value]:
            if each is not None and each is not False:
                found += [f"--{key.replace('_', '-')}", *([] if each is True else [str(each)])]
    return found


@app.command(epilog="Example: harness reproduce fig8 --size toy")
def reproduce(
    name: Annotated[
        str, Argument(help="An experiment of experiments/, or all.", autocompletion=complete_experiments)
    ],
    size: Annotated[
        Literal["toy", "paper"], Option(help="Toy: two CPU cores, minutes to two hours, as its plan says.")
    ] = "toy",
    runs: Annotated[Path, into("Folders of runs, one per experiment, are in here.")] = Path("runs"),
    out: Annotated[Path, into("Tables and figures go here, a folder per experiment.")] = Path("results"),
    device: Device = "auto",
    encoder: Encoder = "auto",
    wandb: Wandb = None,
    dry_run: DryRun = False,
) -> None:
    """A named experiment from sweep to figures; runs that are done are reused."""
    with busy("loading libraries"):
        from harness import reproduce as program
    from harness.sweep import experiment

    for each in experiment.names() if name == "all" else [name]:
        code = program.reproduce(each, size, runs, out, device, encoder, wandb, dry_run)
        if code:
            raise Exit(code)


@app.command(name="import", epilog="Example: harness import renders --suite coco --out theirs --toy")
def import_(
    renders: Annotated[
        Path, Argument(help="<method>/<prompt-id>/<seed>/rgb_*.png, as GPTEval3D's.", callback=expanded)
    ],
    suite: Annotated[Path, Option(help="The prompts they were made from.", callback=expanded)],
    out: Annotated[Path, into("The folder of runs to write.")] = Path("imported"),
    azimuths: Annotated[int, Option(min=1, help="Views of the full turn to keep.")] = 8,
    elevation: Annotated[float, Option(help="Degrees that their camera stood at.")] = 15.0,
    steps: Annotated[int, Option(min=1, help="How many steps their runs took.")] = 1,
    prior: Annotated[str, Option(help="Name of the diffusion prior they used.")] = "foreign",
    toy: Annotated[bool, Option("--toy", help="They are of the toy world.")] = False,
) -> None:
    """Other people's renders become run folders that eval, tables and figures read like any other."""
    with busy("loading libraries"):
        from eval.scorers.retrieval import cut_captions
        from eval.sources.foreign import import_renders
    from harness.presets import CLIPS
    from harness.records.suites import beside_others
    from harness.sweep.grid import read_suite, write_suite

    read = read_suite(suite)
    say = partial(print, file=sys.stderr)
    runs = import_renders(renders, read, out, azimuths, elevation, steps, prior, toy, say)
    for line in cut_captions(read.prompts, ["toy-clip"] if toy else CLIPS):
        say(line)
    write_suite(out, read)
    print(f"{len(runs)} runs in {out}; next: harness eval {out}{beside_others(out, read.name, read.sha256)}")


@app.command(epilog="Example: harness export tp_sds-a-red-bus-s0-f69ab924 --format glb")
def export(
    source: Annotated[
        str,
        Argument(
            help="For logs a folder of runs, wandb:entity/project[/group], or offline .wandb files; for a "
            "mesh one run: its folder, its id, or a part of it.",
            callback=expanded,
        ),
    ] = "runs",
    kind: Annotated[
        Format | None,
        Option(
            "--format", help="parquet or csv: logs; glb, obj or ply: a mesh. As --out ends, else parquet."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        Option(help="The file; logs.parquet, or RUN/mesh/object.glb by default.", callback=file_out),
    ] = None,
    metrics: Annotated[
        str | None, Option(help="Logs: which values, comma-separated; all by default.")
    ] = None,
    runs: RunsOption = Path("runs"),
    threshold: Annotated[
        float | None, Option(help="Mesh: density of the surface; as the views' outlines by default.")
    ] = None,
    resolution: Annotated[
        int | None,
        Option(min=16, max=512, help="Mesh: cells along an axis; as fine as the field by default."),
    ] = None,
    components: Annotated[
        int | None, Option(min=1, help="Mesh: keep so many of the largest parts; all by default.")
    ] = None,
    device: Device = "auto",
    scenes_dir: ScenesDir = [],  # noqa: B006
) -> None:
    """Every logged value of a sweep as one tidy table, or the object of one run as a coloured mesh."""
    form = _format(kind, out)
    of_meshes = {"--threshold": threshold, "--resolution": resolution, "--components": components}
    is_mesh = form in ("glb", "obj", "ply")
    for option, value in ({"--metrics": metrics} if is_mesh else of_meshes).items():
        if value is not None:
            raise UserError(f"{option} is not for --format {form}")
    if is_mesh:
        from harness.cli.objects import export_run

        export_run(source, runs, form, out, threshold, resolution, components, device)
    else:
        _export_logs(source, out or Path(f"logs.{form}"), metrics or "")


@app.command(epilog="Example: harness publish runs --to coco-toy --name 'TP-SDS on coco, toy world'")
def publish(
    runs: Annotated[Path, Argument(help="A folder of runs.", callback=expanded)] = Path("runs"),
    words: Filter = [],  # noqa: B006
    to: Annotated[
        Path,
        into("The folder to be made, or hf:OWNER/NAME: a dataset of the Hub."),
    ] = Path("published"),
    name: Annotated[str, Option(help="What the dataset is called; the folder's name by default.")] = "",
    licence: Annotated[str, Option(help="Of the data, an SPDX identifier.")] = "CC-BY-4.0",
    about: Annotated[str, Option(help="A sentence for its card.")] = "",
    private: Annotated[bool, Option("--private", help="hf:…: a new dataset is not public.")] = False,
) -> None:
    """Ended runs as a dataset, in a folder or on the Hub: parquet, pictures, a card, checksums."""
    only = select(runs, words) if words else None
    run_folders(runs)  # a wrong name is told before anything is imported
    on_hub = f"{to}".startswith("hf:")
    if private and not on_hub:
        raise UserError("--private is of a dataset of the Hub (--to hf:OWNER/NAME)")
    with busy("reading runs and their pictures") as tell, tempfile.TemporaryDirectory() as scratch:
        from eval.published.write import name_on_hub, upload
        from eval.published.write import publish as write

        repo = name_on_hub(f"{to}") if on_hub else ""
        folder = Path(scratch) / "published" if on_hub else to
        left_out = write(runs, folder, name or to.name, licence, about, only)
        where = f"{to}; to the Hub: hf upload OWNER/NAME {to} --repo-type dataset"
        if on_hub:
            tell(f"and sending them to {repo}")
            where = f"{to}: {upload(folder, repo, private)}"
    say_some([f"left out: {line}" for line in left_out], "… and {} more are left out", sys.stderr)
    print(f"published in {where}")


@app.command(epilog="Example: harness leaderboard submissions --out site --title 'Schedules, toy world'")
def leaderboard(
    submissions: Annotated[Path, Argument(help="A folder of published folders.", callback=expanded)] = Path(
        "submissions"
    ),
    out: Annotated[Path, into("Where the page goes.")] = Path("leaderboard"),
    title: Annotated[str, Option(help="Its heading.")] = "Leaderboard",
    clip: ClipName = "toy-clip",
    device: Device = "auto",
) -> None:
    """A page of published runs under one protocol, every number computed anew."""
    if not submissions.is_dir():
        raise UserError(f"no folder {submissions}")
    with busy("loading libraries"):
        from eval.published.board import write_board
        from harness.reproduce import evaluated_runs

    opened = partial(evaluated_runs, clip=clip, device=device)
    for path in write_board(submissions, out, title, opened):
        print(path)


def _format(kind: Format | None, out: Path | None) -> str:
    suffix = out.suffix.removeprefix(".") if out else ""
    fitting = [kind] if kind else get_args(Format)
    if out and suffix not in fitting:
        endings = " or ".join(f".{each}" for each in fitting)
        raise UserError(f"--out {out}: its name must end in {endings}")
    return kind or suffix or "parquet"


def _export_logs(source: str, out: Path, metrics: str) -> None:
    """Columns: run, method, prompt, seed, step, time, metric, value, state."""
    check_file(out)
    with busy("reading logs"):
        from eval.sources.logs import load_logs
        from eval.tables.table import write_frame

        frame = load_logs(source, [name.strip() for name in metrics.split(",") if name.strip()] or None)
    for problem in frame.attrs["problems"]:
        say(f"left out: {problem}", sys.stderr)
    write_frame(frame, out)
    print(f"{len(frame)} rows of {frame['run'].nunique()} runs in {out}")
