"""The command tree, and the arguments that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, CallbackParam, Exit, Option, Typer
from typer.core import TyperGroup

from harness import presets
from harness.config import ENCODERS, Config, UserError, nearest, override_keys
from harness.distill.method import discover, presets_of
from harness.records.files import check_file, check_folder
from harness.records.folder import run_folders
from harness.sweep.grid import suites

GROUPS = {
    "run": {
        "sweep": "prompts × methods × seeds; the same command again continues",
        "reproduce": "a named experiment, from its sweep to its figures",
        "search": "settings that do better: found, fixed, and tested elsewhere",
        "status": "what is done, running and failed; the time left; why",
        "show": "one run: what was asked, how it stands, why it failed",
        "retry": "let failed and cancelled runs be tried again",
        "cancel": "take runs out of whatever advances them",
        "gc": "what belongs to no run, and away with it",
        "sync": "bring to W&B what it lacks",
    },
    "look": {
        "report": "pages that open from disk: tables, curves, every run",
        "watch": "the same pages live, while a sweep runs",
        "turntable": "finished runs from all around, as films",
        "export": "a run as a mesh, or all logs as one table",
        "study": "a blind preference study that anyone can host",
    },
    "analyse": {
        "eval": "R-Precision with intervals, and a contact sheet",
        "tables": "tables as md, csv and tex",
        "figures": "figures as pdf and png",
        "power": "the prompts and seeds that show a difference",
        "metrics": "the metrics there are",
        "import": "other people's renders as runs",
        "export-to": "runs in the folders of other benchmarks",
        "publish": "runs as a dataset that others can host and read",
        "leaderboard": "published runs on one page, under one protocol",
    },
    "cluster": {"slurm": "profiles of Slurm sites, and what a site makes of them"},
    "extend": {
        "methods": "the methods there are; one's equations and settings",
        "new-method": "the folder of a new method, or of a schedule",
        "check-method": "whether a method keeps what all do",
        "scenes": "the kinds of scene there are",
        "check-scene": "whether a kind of scene keeps what all do",
        "settings": "every key of --set: its value, meaning and source",
        "presets": "the presets of settings there are",
        "families": "the families of priors there are",
    },
    "machine and toy world": {
        "doctor": "what this machine has of what a preset needs",
        "bench": "speed, side by side",
        "make-prior": "a prior of a published size with random weights",
        "prompts": "prompt suites",
        "toyworld": "the embedded world and its weights",
    },
}


class Grouped(TyperGroup):
    """Lists its commands by what they are for, each on a line."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The groups, then whatever is in none."""
        named = {name for commands in GROUPS.values() for name in commands}
        others = {
            name: command.get_short_help_str(60)
            for name, command in self.commands.items()
            if name not in named and not command.hidden
        }
        width = max(map(len, self.commands))
        for title, commands in (GROUPS | ({"others": others} if others else {})).items():
            rows = [(f"{name:<{width}}", text) for name, text in commands.items() if name in self.commands]
            with formatter.section(title[:1].upper() + title[1:]):
                formatter.write_dl(rows)


app = Typer(
    name="harness",
    cls=Grouped,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="Durable sweeps of score-distillation text-to-3D: prompts × methods × seeds.",
    epilog="Example: harness sweep smoke --methods uniform_sds,tp_sds && harness eval runs",
)


def _version(asked: bool) -> None:
    if asked:
        from harness.records.environment import code_version, packages

        code = code_version()
        commit = f" ({code['commit'][:12]}{', changed' if code['dirty'] else ''})" if code else ""
        print(f"dreamtime-harness {packages().get('dreamtime-harness', 'not installed')}{commit}")
        raise Exit


@app.callback()
def _options(
    version: Annotated[
        bool, Option("--version", help="Show the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    pass


def _group(name: str, text: str, parent: Typer = app) -> Typer:
    group = Typer(no_args_is_help=True, rich_markup_mode=None, help=text)
    parent.add_typer(group, name=name)
    return group


slurm_app = _group("slurm", "Slurm sites.")
profile_app = _group("profile", "Profiles of Slurm sites.", slurm_app)
study_app = _group("study", "A blind preference study over paired runs.")
prompts_app = _group("prompts", "Prompt suites.")
toyworld_app = _group("toyworld", "The embedded toy world and its weights.")


def _paths(incomplete: str, kind: str) -> list[str]:
    parent = Path(incomplete).parent
    try:
        found = sorted(p for p in parent.iterdir() if str(p).startswith(incomplete.removeprefix("./")))
    except OSError:
        return []
    return [f"{p}/" if p.is_dir() else str(p) for p in found if p.is_dir() or p.suffix == kind]


def _completes(names: Callable[[], Iterable[str]], ending: str = "") -> Callable[[str], list[str]]:
    """What completes a word: the names that begin as it does, and the paths with such an ending."""

    def complete(incomplete: str) -> list[str]:
        named = [name for name in names() if name.startswith(incomplete)]
        return [*named, *(_paths(incomplete, ending) if ending else [])]

    return complete


complete_prompts = _completes(suites, ".txt")
complete_presets = _completes(presets.names, ".toml")
complete_settings = _completes(lambda: [f"{key}=" for key in override_keys(Config)])
complete_run = _completes(lambda: [run.id for run in run_folders("runs")] if Path("runs").is_dir() else [])


MOST_WITH_PRESETS = 3  # methods that are told with their presets


def complete_methods(incomplete: str) -> list[str]:
    """Methods of a comma-separated list, halves of a@b too, with their presets once few are meant."""
    at = max(incomplete.rfind(","), incomplete.rfind("@")) + 1
    before, last = incomplete[:at], incomplete[at:]
    found = {name: method for name, method in discover().items() if name.startswith(last.partition(":")[0])}
    names = list(found)
    if len(found) <= MOST_WITH_PRESETS:
        names += [f"{name}:{preset}" for name, method in found.items() for preset in presets_of(method)]
    return [before + name for name in names if name.startswith(last)]


@_completes
def complete_profiles() -> Iterable[str]:
    from slurm.profile import names

    return names()


@_completes
def complete_experiments() -> Iterable[str]:
    from harness.sweep.experiment import names

    return *names(), "all"


def _searches() -> Iterable[str]:
    from harness.search.definition import names

    return names()


complete_searches = _completes(_searches, ".toml")


@_completes
def complete_tables() -> Iterable[str]:
    from eval.tables.names import by_source

    return by_source()


@_completes
def complete_figures() -> Iterable[str]:
    from eval.figures.kinds import SEAM

    return SEAM.discover([])


def expanded(value: Any) -> Any:
    """A path, or several, with ~ for the home folder: after `--out=` no shell writes it out.

    Raises UserError for a name that no file can have and for a folder that may not be looked into.
    """
    if isinstance(value, list):
        return [expanded(each) for each in value]
    if value is None:
        return None
    path = os.path.expanduser(value)
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise UserError(f"{value}: {getattr(error, 'strerror', None) or error}") from None
    return type(value)(path)


def expanded_words(value: list[str]) -> list[str]:
    """Words that may be paths, each with ~ for the home folder."""
    return [expanded(word) if word.startswith("~") else word for word in value]


def folder_out(param: CallbackParam, value: Path | None) -> Path | None:
    """An option's folder that is written to: told before anything starts where that cannot be."""
    return _out(param, value, check_folder)


def file_out(param: CallbackParam, value: Path | None) -> Path | None:
    """An option's file that is written: told before anything starts where that cannot be."""
    return _out(param, value, check_file)


def _out(param: CallbackParam, value: Path | None, check: Callable[[Path], None]) -> Path | None:
    path = expanded(value)
    if path is not None:
        try:
            check(path)
        except (UserError, OSError) as error:
            raise UserError(f"{param.opts[0]} {value}: {error}") from None
    return path


def into(text: str, *names: str) -> Any:
    """An option for a folder that is written to: see `folder_out`."""
    return Option(*names, help=text, callback=folder_out)


def _more(what: str, callback: Callable[[Any], Any] = expanded, name: str = "") -> Any:
    text = f"A folder with more {what}; may be given several times."
    return Option(f"--{name or what}-dir", help=text, callback=callback)


MethodsDir = Annotated[list[Path], _more("methods")]
MetricsDir = Annotated[list[Path], _more("metrics")]
FiguresDir = Annotated[list[Path], _more("figures")]


def scenes_in(value: list[Path]) -> list[Path]:
    """The folders of `--scenes-dir`, in which kinds of scene are found from now on."""
    from harness.scene.kind import look_in

    dirs = expanded(value)
    look_in(dirs)
    return dirs


ScenesDir = Annotated[list[Path], _more("kinds of scene", scenes_in, "scenes")]


def encoder_named(value: str) -> str:
    """The encoder asked for; UserError for an unknown name."""
    if value not in ENCODERS:
        raise UserError(f"unknown encoder '{value}'{nearest(value, ENCODERS)}")
    return value


Encoder = Annotated[
    str,
    Option(
        help="What computes hash grids and rays: numba, torch, triton or tinycudann; auto: the fastest here.",
        callback=encoder_named,
        autocompletion=_completes(lambda: ENCODERS),
    ),
]
Runs = Annotated[Path, Argument(help="The folder that a sweep wrote.", callback=expanded)]
RunsOption = Annotated[Path, Option("--runs", help="The folder that a sweep wrote.", callback=expanded)]
Filter = Annotated[
    list[str],
    Argument(
        help="Which: method=tp_sds, seed=0-2, prompt=bus, suite=coco, state=failed, cfg_scale=50, a part of "
        "the id, a pattern with *; all words must fit."
    ),
]
Study = Annotated[
    Path, Argument(metavar="STUDY", help="The folder that `harness study new` wrote.", callback=expanded)
]
Source = Annotated[
    str,
    Argument(
        metavar="[RUNS]",
        help="A folder of runs or a published one, hf:OWNER/NAME, or wandb:entity/project[/group].",
        callback=expanded,
    ),
]
PresetName = Annotated[
    str,
    Option(
        help="Whose settings: one of `harness presets`, or the path of a .toml file of yours.",
        autocompletion=complete_presets,
        callback=expanded,
    ),
]
PriorName = Annotated[
    str | None, Option("--prior", help="Another diffusion prior: a folder or a Hub id, such as owner/name.")
]
Settings = Annotated[
    list[str],
    Option(
        "--set",
        metavar="KEY=VALUE",
        help="A setting, such as guidance.cfg_scale=30; may be given several times.",
        autocompletion=complete_settings,
    ),
]
ClipName = Annotated[str, Option("--clip", help="toy-clip, or an open_clip model of the allow-list.")]
Device = Annotated[str, Option(help="auto, cpu or cuda.")]
AllowMixed = Annotated[
    bool, Option("--allow-mixed", help="Put runs of different settings into one table all the same.")
]
Samples = Annotated[
    int | None,
    Option("--prior-samples", min=0, help="Images of the prior itself per prompt; 4 for a toy prior."),
]
Wandb = Annotated[
    Literal["online", "offline", "disabled"] | None,
    Option(help="By default online where WANDB_API_KEY is set, else offline."),
]
DryRun = Annotated[bool, Option("--dry-run", help="Print the plan and an estimate, write nothing.")]
