"""The command line. Commands are thin, and import what they need when they run."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from harness.config import UserError, nearest

app = typer.Typer(
    name="harness",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="Durable sweeps of score-distillation text-to-3D: prompts × methods × seeds.",
    epilog="Example: harness sweep prompts/smoke.txt --methods uniform_sds,tp_sds && harness eval runs",
)
prompts_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Prompt suites.")
toyworld_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="The embedded toy world and its weights."
)
slurm_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Slurm sites.")
profile_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Profiles of Slurm sites.")
app.add_typer(slurm_app, name="slurm")
slurm_app.add_typer(profile_app, name="profile")
app.add_typer(prompts_app, name="prompts")
app.add_typer(toyworld_app, name="toyworld")

INTERRUPTED = 130


def _paths(incomplete: str, kind: str) -> list[str]:
    parent = Path(incomplete).parent
    try:
        found = sorted(p for p in parent.iterdir() if str(p).startswith(incomplete.removeprefix("./")))
    except OSError:
        return []
    return [f"{p}/" if p.is_dir() else str(p) for p in found if p.is_dir() or p.suffix == kind]


def _complete_prompts(incomplete: str) -> list[str]:
    return _paths(incomplete, ".txt")


def _complete_methods(incomplete: str) -> list[str]:
    from harness.distill.method import discover

    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in discover() if name.startswith(last)]


def _complete_profiles(incomplete: str) -> list[str]:
    from slurm.profile import names

    return [name for name in names() if name.startswith(incomplete)]


def _complete_settings(incomplete: str) -> list[str]:
    from harness.config import Config, override_keys

    return [f"{key}=" for key in override_keys(Config) if key.startswith(incomplete)]


def _complete_run(incomplete: str) -> list[str]:
    return [path.parent.name for path in Path("runs").glob(f"{incomplete}*/spec.json")]


MethodsDir = Annotated[
    list[Path], typer.Option("--methods-dir", help="A folder with more methods; may be given several times.")
]
Runs = Annotated[Path, typer.Argument(help="The folder that a sweep wrote.")]
RunsOption = Annotated[Path, typer.Option("--runs", help="The folder that a sweep wrote.")]
Filter = Annotated[
    list[str],
    typer.Argument(
        help="Which: method=tp_sds, seed=0-2, prompt=bus, state=failed, a part of the id, a pattern with *; "
        "all words must fit.",
    ),
]
Source = Annotated[
    str, typer.Argument(metavar="[RUNS]", help="A folder of runs, or wandb:entity/project[/group].")
]


@app.command(
    epilog="Example: harness sweep prompts/coco.txt --limit 24 --seeds 0-1 --methods uniform_sds,tp_sds:iclr"
)
def sweep(
    prompts: Annotated[
        Path, typer.Argument(help="A suite: one prompt a line.", autocompletion=_complete_prompts)
    ],
    methods: Annotated[
        str,
        typer.Option(
            help="Methods, comma-separated; name:preset picks a preset. All by default.",
            autocompletion=_complete_methods,
        ),
    ] = "",
    seeds: Annotated[str, typer.Option(help="Seeds and ranges, such as 0-2,5.")] = "0",
    steps: Annotated[
        str, typer.Option(help="Steps of each run; several, such as 100,200,400, are runs of their own.")
    ] = "",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Run the first K prompts; all stay the pool.")
    ] = None,
    preset: Annotated[
        str,
        typer.Option(help="toy (the embedded prior), paper (Stable Diffusion v1.4) or iclr (DeepFloyd-IF)."),
    ] = "toy",
    prior: Annotated[
        str | None, typer.Option(help="Another diffusion prior: a folder or a Hub id, such as owner/name.")
    ] = None,
    settings: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting, such as guidance.cfg_scale=50 or tp_sds.m1=700; may be given several times.",
            autocompletion=_complete_settings,
        ),
    ] = [],  # noqa: B006 - typer copies it
    pack: Annotated[str, typer.Option(help="Most runs advanced together: a number, or auto.")] = "auto",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Worker processes; one per GPU, or one, by default.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the run folders are.")] = Path("runs"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    wandb: Annotated[
        str | None, typer.Option(help="online, offline or disabled; online where WANDB_API_KEY is set.")
    ] = None,
    study: Annotated[str, typer.Option(help="W&B's project; the group is the name of --out.")] = "dreamtime",
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 100,
    log_every: Annotated[int, typer.Option(min=1, help="Steps between rows of metrics.jsonl.")] = 10,
    keep_params: Annotated[
        bool, typer.Option("--keep-params", help="Keep the parameters of every evaluated step (Fig. 3).")
    ] = False,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="The same bits again on a GPU, at a price; a CPU has them."),
    ] = False,
    methods_dir: MethodsDir = [],  # noqa: B006
    slurm: Annotated[
        str | None,
        typer.Option(
            metavar="[PROFILE]",
            help="Submit to Slurm and return at once; `harness slurm profile new` writes a profile.",
            autocompletion=_complete_profiles,
        ),
    ] = None,
    array_parallelism: Annotated[
        int | None, typer.Option(min=1, help="Most Slurm tasks at a time; the profile's by default.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and an estimate, write nothing.")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed runs again.")] = False,
) -> None:
    """Run every prompt × method × seed that is not done yet; the same command again continues."""
    from harness.sweep.request import Request, parse_steps

    if wandb not in (None, "online", "offline", "disabled"):
        raise UserError(
            f"--wandb is online, offline or disabled, not '{wandb}'{nearest(wandb, ['online', 'offline'])}"
        )
    if pack != "auto" and not (pack.isdecimal() and int(pack) > 0):
        raise UserError(f"--pack takes a number of runs or auto, not '{pack}'")
    request = Request(
        prompts=prompts,
        methods=methods,
        seeds=seeds,
        steps=parse_steps(steps) if steps else (),
        limit=limit,
        preset=preset,
        settings=(*settings, *([f"guidance.prior={prior}"] if prior else [])),
        methods_dirs=tuple(d.resolve() for d in methods_dir),
    )
    suite, specs = request.resolve()
    execution = _execution(
        out,
        wandb,
        pack=None if pack == "auto" else int(pack),
        jobs=jobs,
        device=device,
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        study=study,
        keep_params=keep_params,
        deterministic=deterministic,
        methods_dirs=tuple(map(str, request.methods_dirs)),
    )
    if slurm is None:
        raise typer.Exit(_sweep(out, suite, specs, execution, dry_run, retry_failed))
    from slurm.command import sweep as submit
    from slurm.profile import load

    profile = load(slurm)
    if array_parallelism:
        profile = profile.model_copy(update={"array_parallelism": array_parallelism})
    command = shlex.join(["harness", *sys.argv[1:]])
    ask = {"profile_name": slurm, "profile": profile, "command": command, "retry_failed": retry_failed}
    submit(dry_run=dry_run, root=out, suite=suite, specs=specs, execution=execution, **ask)


def _execution(out: Path, wandb: str | None, **settings: Any) -> Any:
    from harness.config import Execution
    from harness.records.tracking import default_mode

    return Execution(wandb=wandb or default_mode(), sweep=out.resolve().name, **settings)  # type: ignore[arg-type]


def _sweep(root: Path, suite: Any, specs: list, execution: Any, dry_run: bool, retry_failed: bool) -> int:
    """Plan, measure, run; returns the exit code."""
    from harness.records.folder import RunFolder
    from harness.records.identity import run_id
    from harness.sweep.display import Display, duration, number
    from harness.sweep.grid import write_suite
    from harness.sweep.pool import Pool

    presses = 0
    by_id = {run_id(spec): spec for spec in specs}
    with Pool(root, specs, execution, lambda: presses > 0, scratch=dry_run) as pool:

        def on_signal(signum: int, _: object) -> None:
            nonlocal presses
            presses += 1
            if presses > 1:
                pool.kill()

        plan = pool.plan(retry_failed, asked=True)
        print(plan.summary(), flush=True)
        if not plan.packs and not plan.running:
            return _report(plan.done, plan.failed, [], root)
        before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            if plan.packs:
                rate = pool.measure(plan, by_id).rate
                if rate and not presses:
                    steps = sum(plan.steps_left.values())
                    print(f"about {duration(steps / rate)} at {number(rate)} steps/s (measured)", flush=True)
            if dry_run or presses:
                return INTERRUPTED if presses else 0
            for run in plan.todo:
                folder = RunFolder.create(root, by_id[run])
                folder.uncancel()
                if retry_failed:
                    folder.forget_failure()
            write_suite(root, suite)
            display = Display(plan.total, sum(plan.steps_left.values()))
            display.runs_done = len(plan.done) + len(plan.failed)
            try:
                outcome = pool.run(display)
            finally:
                display.close()
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
    if outcome.interrupted:
        print(f"stopped: {len(outcome.left)} runs left; the same command continues them", flush=True)
        return INTERRUPTED
    return _report(outcome.done, outcome.failed, outcome.left, root)


def _report(done: list[str], failed: list[str], left: list[str], root: Path) -> int:
    from harness.records.folder import RunFolder

    text = f"{len(done)} done"
    if failed:
        failure = RunFolder(root / failed[0]).failure() or {"reason": "unknown"}
        text += (
            f", {len(failed)} failed (--retry-failed tries again), such as {failed[0]}: {failure['reason']}"
        )
    if left:
        text += f", {len(left)} left unfinished, such as {left[0]}"
    print(f"{text}; next: harness eval {root}", flush=True)
    return 1 if failed or left else 0


@app.command(epilog="Example: harness status runs --watch")
def status(
    runs: Runs = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Refresh until nothing is left to wait for.")
    ] = False,
    why: Annotated[
        str,
        typer.Option(metavar="RUN", help="Why this run stands where it does.", autocompletion=_complete_run),
    ] = "",
) -> None:
    """Per method: how many runs are done, running, queued and failed, the rate, time left and cost."""
    from rich.console import Console

    from harness.sweep.status import find_run, sweep_status
    from slurm import watch as slurm

    if why:
        found = slurm.why(find_run(why, runs))
        if as_json:
            print(json.dumps(dict(found), indent=2, ensure_ascii=False))
        for name, text in [] if as_json else found:
            print(f"{name:<12} {text}")
        return
    look = slurm.status if slurm.used_here(runs) else sweep_status
    if as_json:
        print(look(runs).as_json())
        return
    console = Console(highlight=False)
    state = _watched(runs, look, console) if watch else look(runs)
    if not watch:
        console.print(state.view())
    for failure in state.failures[:10]:
        console.print(
            f"failed at step {failure['step']}: {failure['run']}: {failure['reason']}", soft_wrap=True
        )
    if len(state.failures) > 10:
        console.print(f"… and {len(state.failures) - 10} more (--json lists them all)")


WATCH_SECONDS = 5.0  # between two looks: one call of squeue, where there is a queue


def _watched(runs: Path, look: Any, console: Any) -> Any:
    """Show the status until nothing is left to wait for; the last one. It belongs to nobody: a sweep does not
    notice a terminal that is closed."""
    from rich.live import Live

    on_terminal = sys.stdout.isatty()
    state = look(runs)
    try:
        with Live(state.view(), console=console, auto_refresh=False) as live:
            while state.total.running or state.total.queued or state.total.waiting:
                time.sleep(WATCH_SECONDS)
                if on_terminal and not sys.stdout.isatty():
                    os._exit(0)  # closed, and nohup kept the hang-up away: there is nowhere to say goodbye
                state = look(runs)
                live.update(state.view(time.strftime("%H:%M:%S")), refresh=True)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    return state


@app.command(epilog="Example: harness cancel method=tp_sds seed=3")
def cancel(words: Filter = [], runs: RunsOption = Path("runs")) -> None:  # noqa: B006
    """Take runs out of whatever advances them, and end Slurm tasks that then have nothing left to do."""
    from harness.sweep.select import select
    from slurm.watch import cancel as cancel_runs

    came = cancel_runs(runs, [folder.id for folder in select(runs, words)])
    tasks = f", {len(came['tasks'])} Slurm tasks ended" if came["tasks"] else ""
    print(f"{len(came['runs'])} runs cancelled{tasks}; the same sweep command takes them up again")


@app.command(epilog="Example: harness retry method=tp_sds")
def retry(words: Filter = [], runs: RunsOption = Path("runs")) -> None:  # noqa: B006
    """Let failed and cancelled runs be tried again, from their last checkpoints."""
    from harness.sweep.select import select

    found = [folder for folder in select(runs, words) if folder.status() in ("failed", "cancelled")]
    for folder in found:
        folder.forget_failure()
        folder.uncancel()
    print(f"{len(found)} runs will be tried again by the same sweep command")


@app.command(epilog="Example: harness gc runs")
def gc(
    runs: Runs = Path("runs"),
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
) -> None:
    """List what belongs to no run of a folder, and remove it on confirmation."""
    from harness.sweep.gc import find_waste
    from slurm.watch import look, used_here

    view = look(runs) if used_here(runs) else None
    if view and view.problem:
        raise UserError(f"{view.problem}: nothing is removed while tasks may be running")
    waste = find_waste(runs, [task.launch.folder for task in view.queue] if view else [])
    for item in waste:
        print(f"{item.size / 1e6:9.1f} MB  {item.path}  ({item.why})")
    if not waste:
        print("nothing: all of it belongs to a run")
    elif yes or typer.confirm(f"remove these {len(waste)}?"):
        for item in waste:
            item.remove()
        print(f"removed, {sum(item.size for item in waste) / 1e6:.1f} MB")


@slurm_app.command(name="check", epilog="Example: harness slurm check a100")
def slurm_check(
    name: Annotated[str, typer.Argument(help="A profile, or its file.", autocompletion=_complete_profiles)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What the site accepts of a profile, before anything is submitted; exit 1 where it refuses."""
    from slurm.command import check

    raise typer.Exit(0 if check(name, as_json) else 1)


@profile_app.command(name="new", epilog="Example: harness slurm profile new a100")
def slurm_profile_new(name: Annotated[str, typer.Argument(help="Its name.")]) -> None:
    """Write a profile with comments into ./slurm-profiles."""
    from slurm.profile import new

    print(f"{new(name)} written; edit it, then: harness slurm check {name}")


@profile_app.command(name="list", epilog="Example: harness slurm profile list")
def slurm_profile_list() -> None:
    """The profiles there are."""
    from slurm.profile import names

    for name, path in sorted(names().items()):
        print(f"{name:<12} {path}")


@app.command(epilog="Example: harness show tp_sds-a-red-bus-s0-d317b10f")
def show(
    run: Annotated[
        str, typer.Argument(help="A run: its folder, its id, or a part of it.", autocompletion=_complete_run)
    ],
    runs: Annotated[Path, typer.Option(help="The folder of runs.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """One run: what was asked, where it stands, its last metrics and where its views are."""
    from harness.sweep.status import describe, find_run

    about = describe(find_run(run, runs))
    if as_json:
        print(json.dumps(about, indent=2, ensure_ascii=False))
        return
    config = about.pop("config")
    about |= {f"config.{key}": value for key, value in config.items()}
    for key, value in about.items():
        if value not in (None, {}, ""):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            print(f"{key:<16} {text}")


@app.command(epilog="Example: harness sync runs --study dreamtime")
def sync(
    runs: Runs = Path("runs"),
    words: Filter = [],  # noqa: B006
    study: Annotated[str, typer.Option(help="W&B's project.")] = "dreamtime",
    sweep: Annotated[
        str, typer.Option("--group", help="W&B's group; the name of RUNS by default, as in a sweep.")
    ] = "",
    entity: Annotated[
        str | None, typer.Option(help="W&B's entity; the API key's default one by default.")
    ] = None,
) -> None:
    """Upload to W&B what it lacks of these runs; the same command again uploads nothing."""
    from rich.console import Console

    from harness.records.wandb_sync import sync as run
    from harness.sweep.select import select

    folders = select(runs, words)
    with Console(stderr=True).status("") as progress:
        outcome = run(
            folders,
            study,
            sweep or runs.resolve().name,
            entity,
            lambda so_far: progress.update(f"{so_far.line} of {len(folders)}"),
        )
    for name, problem in list(outcome.left.items())[:10]:
        print(f"left: {name}: {problem}", file=sys.stderr)
    print(f"{len(folders)} runs in W&B project {study}: {outcome.line}")
    raise typer.Exit(1 if outcome.left else 0)


@app.command(epilog="Example: harness methods --methods-dir ~/my-methods")
def methods(methods_dir: MethodsDir = []) -> None:  # noqa: B006
    """The methods there are, by the first line of their docstrings."""
    from harness.distill.method import discover

    found = discover(methods_dir)
    width = max(map(len, found), default=0)
    for name, folder in sorted(found.items()):
        print(f"{name:<{width}}  {folder.summary}")


@app.command(name="new-method", epilog="Example: harness new-method my_sds --dir methods")
def new_method(
    name: Annotated[str, typer.Argument(help="The method's name: lower-case letters, digits and _.")],
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where to; the built-in methods by default.")
    ] = None,
) -> None:
    """Write the folder of a new method that runs as it stands."""
    from harness.distill.method import BUILT_IN
    from harness.distill.method import new_method as write

    path = write(name, directory or BUILT_IN)
    dirs = f" --methods-dir {path.parent}" if directory and path.parent.resolve() != BUILT_IN else ""
    print(f"{path} written; try it: harness sweep prompts/smoke.txt --methods {name} --steps 50{dirs}")


ClipName = Annotated[str, typer.Option("--clip", help="toy-clip, or an open_clip model of the allow-list.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
AllowMixed = Annotated[
    bool, typer.Option("--allow-mixed", help="Put runs of different settings into one table all the same.")
]
Samples = Annotated[
    int | None,
    typer.Option("--prior-samples", min=0, help="Images of the prior itself per prompt; 4 for a toy prior."),
]


def _study(runs: Path, **options: Any) -> Any:
    from eval.command import console_for_tables, open_study
    from harness.toyworld.render import ground_truth

    return open_study(runs, console_for_tables(), ground_truth=ground_truth, **options)


def _runs_and_results(source: str, out: Path | None, below: str) -> tuple[Path, Path]:
    """The folder of runs, made from W&B where they are there, and where results go unless `out` says it."""
    if not source.startswith("wandb:"):
        return Path(source), out or Path(source, "eval", below)
    from rich.console import Console

    from eval.wandb_runs import run_folders_of

    with Console(stderr=True).status(f"reading {source}"):
        runs, problems = run_folders_of(source)
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    return runs, out or Path("wandb-" + source.rpartition("/")[2], below)


@app.command(name="eval", epilog="Example: harness eval runs --out figures")
def evaluate(
    runs: Source = "runs",
    clip: ClipName = "toy-clip",
    out: Annotated[
        Path | None, typer.Option(help="Where tables and sheets go; RUNS/eval or wandb-GROUP by default.")
    ] = None,
    device: Device = "auto",
    allow_mixed: AllowMixed = False,
) -> None:
    """R-Precision of the stored views per method, with intervals, and a contact sheet."""
    from eval.command import evaluate as run

    folder, results = _runs_and_results(runs, out, "")
    run(_study(folder, clip=clip, device=device, allow_mixed=allow_mixed), results)


@app.command(epilog="Example: harness tables runs convergence diversity")
def tables(
    runs: Source = "runs",
    names: Annotated[list[str], typer.Argument(help="Which; all that the runs allow by default.")] = [],  # noqa: B006
    clip: ClipName = "toy-clip",
    out: Annotated[
        Path | None, typer.Option(help="Where they go; RUNS/eval/tables or wandb-GROUP/tables by default.")
    ] = None,
    device: Device = "auto",
    allow_mixed: AllowMixed = False,
    prior_samples: Samples = None,
) -> None:
    """Tables with intervals as md, csv and tex: R-Precision, convergence, diversity, failures, claims."""
    from eval.command import write_tables

    options = {"clip": clip, "device": device, "allow_mixed": allow_mixed, "samples": prior_samples}
    folder, results = _runs_and_results(runs, out, "tables")
    write_tables(_study(folder, **options), names, results)


@app.command(epilog="Example: harness figures runs r_precision seeds_grid --out figures")
def figures(
    runs: Source = "runs",
    names: Annotated[list[str], typer.Argument(help="Which; all that the runs allow by default.")] = [],  # noqa: B006
    clip: ClipName = "toy-clip",
    out: Annotated[
        Path | None, typer.Option(help="Where they go; RUNS/eval/figures or wandb-GROUP/figures by default.")
    ] = None,
    device: Device = "auto",
    allow_mixed: AllowMixed = False,
    prior_samples: Samples = None,
) -> None:
    """Figures as pdf and png, each with a manifest of the runs that made it."""
    from eval.figures import write_figures

    options = {"clip": clip, "device": device, "allow_mixed": allow_mixed, "samples": prior_samples}
    command = " ".join(["harness figures", runs, *names])
    folder, results = _runs_and_results(runs, out, "figures")
    for path in write_figures(_study(folder, **options), names, results, command):
        print(path)


@app.command(epilog="Example: harness reproduce fig8 --size toy")
def reproduce(
    name: Annotated[str, typer.Argument(help="An experiment of experiments/, or all.")],
    size: Annotated[str, typer.Option(help="toy (two CPU cores, within 30 minutes) or paper.")] = "toy",
    runs: Annotated[Path, typer.Option(help="Folders of runs, one per experiment, are in here.")] = Path(
        "runs"
    ),
    out: Annotated[Path, typer.Option(help="Tables and figures go here, a folder per experiment.")] = Path(
        "results"
    ),
    device: Device = "auto",
    wandb: Annotated[str | None, typer.Option(help="online, offline or disabled.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plans and estimates only.")] = False,
) -> None:
    """A named experiment from sweep to figures; runs that are done are reused."""
    from harness.sweep import experiment

    for each in experiment.names() if name == "all" else [name]:
        code = _reproduce(each, size, runs, out, device, wandb, dry_run)
        if code:
            raise typer.Exit(code)


def _reproduce(
    name: str, size: str, runs: Path, out: Path, device: str, wandb: str | None, dry_run: bool
) -> int:
    from eval.command import write_tables
    from eval.figures import write_figures
    from harness.records.identity import run_id
    from harness.sweep import experiment

    if size not in ("toy", "paper"):
        raise UserError(f"--size is toy or paper, not '{size}'")
    asked = experiment.load(name)
    sized = asked.paper if size == "paper" else asked.toy
    command = f"harness reproduce {name} --size {size}"
    print(f"{name} ({size}): {asked.title}", flush=True)
    folder = out / f"{name}-{size}"
    if sized is None:
        for path in [] if dry_run else write_figures(None, asked.figures, out / name, command):
            print(path)
        return 0
    root = runs / f"{asked.runs or name}-{size}"
    suite, specs = asked.request(sized).resolve()
    execution = _execution(root, wandb, device=device, keep_params=asked.keep_params)
    code = _sweep(root, suite, specs, execution, dry_run, retry_failed=False)
    if code == INTERRUPTED or dry_run:
        return code
    for clip in sized.clips:
        study = _study(root, clip=clip, device=device, only={run_id(spec) for spec in specs})
        where = folder if len(sized.clips) == 1 else folder / clip.replace("/", "-")
        if asked.tables:
            write_tables(study, asked.tables, where)
        for path in write_figures(study, asked.figures, where, command) if asked.figures else []:
            print(path)
    return code


@app.command(epilog="Example: harness bench --check")
def bench(
    what: Annotated[
        str,
        typer.Argument(
            help="engine: packed against solo, the usual loop and the denoiser alone; spread: a seed run "
            "again against another seed; logs: loading those of 2295 runs of 10 000 steps (3.6 GB of disk); "
            "slurm: a disturbed sweep through slurm/testbed.",
        ),
    ] = "engine",
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 where a bar is missed.")] = False,
    runs: Annotated[int, typer.Option(min=8, help="slurm: runs of the disturbed sweep.")] = 1000,
    preset: Annotated[str, typer.Option(help="engine, spread: whose settings.")] = "toy",
    prior: Annotated[
        str | None, typer.Option(help="engine, spread: another prior than the preset's.")
    ] = None,
    settings: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="KEY=VALUE", help="engine, spread: a setting.", autocompletion=_complete_settings
        ),
    ] = [],  # noqa: B006 - typer copies it
) -> None:
    """Speed, side by side, as ratios; how a study's logs load; what a cluster costs and loses."""
    if what == "logs":
        from eval.bench_logs import run as run_logs

        raise typer.Exit(int(check and not run_logs().ok))
    if what == "slurm":
        from slurm.bench import run as run_slurm

        raise typer.Exit(int(not run_slurm(runs) and check))
    if what not in ("engine", "spread"):
        raise UserError(f"no benchmark '{what}'{nearest(what, ['engine', 'spread', 'logs', 'slurm'])}")
    from harness import bench as engine
    from harness.doctor import resolve

    config = resolve(preset, prior, settings)
    raise typer.Exit(engine.run(config, check=check) if what == "engine" else engine.spread(config))


@app.command(epilog="Example: harness doctor --preset paper --fetch")
def doctor(
    preset: Annotated[str, typer.Option(help="Whose needs are looked at: toy, paper or iclr.")] = "toy",
    prior: Annotated[
        str | None, typer.Option(help="Another diffusion prior: a folder or a Hub id, such as owner/name.")
    ] = None,
    settings: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting, such as guidance.revision=main; may be given several times.",
            autocompletion=_complete_settings,
        ),
    ] = [],  # noqa: B006 - typer copies it
    clip: Annotated[
        str, typer.Option(help="Scorers, comma-separated; those of the preset's experiments by default.")
    ] = "",
    out: Annotated[Path, typer.Option(help="Where the run folders will be.")] = Path("runs"),
    fetch: Annotated[
        bool,
        typer.Option("--fetch", help="Download the weights that are not here, for jobs without internet."),
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Measure a few steps: what the paper's comparison costs here.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What this machine has of what a preset needs; exit 1 where something is missing."""
    from harness import doctor

    config = doctor.resolve(preset, prior, settings)
    clips = doctor.scorers(config, clip)
    if fetch:
        doctor.fetch_and_tell(config, clips, as_json)
    elif not doctor.tell(config, clips, out, as_json, estimate):
        raise typer.Exit(1)


@app.command(
    name="make-prior", epilog="Example: harness make-prior --like sd14 --random --out build/random-sd14"
)
def make_prior(
    like: Annotated[str, typer.Option(help="Whose architecture: sd14, sd21, sdxl, if-i or sd3.")],
    out: Annotated[Path, typer.Option(help="The pipeline folder to write.")],
    random: Annotated[
        bool, typer.Option("--random", help="Random weights, which this command makes and no others.")
    ] = False,
    size: Annotated[str, typer.Option(help="full, or tiny: the same classes at toy width.")] = "full",
    seed: Annotated[int, typer.Option(help="What the weights are drawn from.")] = 0,
    dtype: Annotated[str, typer.Option(help="float16 or float32.")] = "float16",
    tokenizer: Annotated[
        str, typer.Option(help="clip, whose vocabulary comes with open_clip, or bytes.")
    ] = "clip",
) -> None:
    """A prior of a published size with random weights, for benchmarks: no result comes of it."""
    from harness.guidance.architectures import architecture

    architecture(like)
    if not random:
        raise UserError("make-prior makes random weights only, and wants to hear it: add --random")
    from harness.guidance.random_prior import make_prior as make

    make(out, like, size=size, seed=seed, dtype=dtype, tokenizer=tokenizer)
    print(f"{out}: {like} {size}, RANDOM WEIGHTS; use it: --set guidance.prior={out}")


@app.command(
    name="import", epilog="Example: harness import renders --suite prompts/coco.txt --out theirs --toy"
)
def import_(
    renders: Annotated[Path, typer.Argument(help="<method>/<prompt-id>/<seed>/rgb_*.png, as GPTEval3D's.")],
    suite: Annotated[Path, typer.Option(help="The prompts they were made from.")],
    out: Annotated[Path, typer.Option(help="The folder of runs to write.")] = Path("imported"),
    azimuths: Annotated[int, typer.Option(min=1, help="Views of the full turn to keep.")] = 8,
    elevation: Annotated[float, typer.Option(help="Degrees that their camera stood at.")] = 15.0,
    steps: Annotated[int, typer.Option(min=1, help="How many steps their runs took.")] = 1,
    prior: Annotated[str, typer.Option(help="Name of the diffusion prior they used.")] = "foreign",
    toy: Annotated[bool, typer.Option("--toy", help="They are of the toy world.")] = False,
) -> None:
    """Other people's renders become run folders that eval, tables and figures read like any other."""
    from eval.foreign import import_renders
    from harness.sweep.grid import read_suite, write_suite

    read = read_suite(suite)
    runs = import_renders(renders, read, out, azimuths, elevation, steps, prior, toy)
    write_suite(out, read)
    print(f"{len(runs)} runs in {out}; next: harness eval {out}")


@app.command(epilog="Example: harness export wandb:me/dreamtime/sweep --out logs.parquet")
def export(
    source: Annotated[
        str, typer.Argument(help="A folder of runs, wandb:entity/project[/group], or offline .wandb files.")
    ] = "runs",
    metrics: Annotated[str, typer.Option(help="Which logged values, comma-separated; all by default.")] = "",
    out: Annotated[Path, typer.Option(help="A .parquet or .csv file.")] = Path("logs.parquet"),
) -> None:
    """Every logged value as one tidy table: run, method, prompt, seed, step, time, metric, value, state."""
    from eval.logs import load_logs

    if out.suffix not in (".parquet", ".csv"):
        raise UserError(f"--out {out}: write to a .parquet or a .csv file")
    frame = load_logs(source, [name.strip() for name in metrics.split(",") if name.strip()] or None)
    for problem in frame.attrs["problems"]:
        print(f"left out: {problem}", file=sys.stderr)
    if out.suffix == ".csv":
        frame.to_csv(out, index=False)
    else:
        frame.to_parquet(out, index=False)
    print(f"{len(frame)} rows of {frame['run'].nunique()} runs in {out}")


@prompts_app.command(
    name="import-dreamfields",
    epilog="Example: harness prompts import-dreamfields coco_queries_val.py --out dreamfields.txt",
)
def import_dreamfields(
    file: Annotated[Path, typer.Argument(help="Your own copy of google-research's coco_queries_val.py.")],
    out: Annotated[Path, typer.Option(help="The suite to write.")] = Path("dreamfields.txt"),
) -> None:
    """Make a suite of Dream Fields' 153 captions, which this project does not ship."""
    from harness.records.files import write_bytes
    from harness.sweep.dreamfields import import_dreamfields as read
    from harness.sweep.grid import read_suite

    if out.exists():
        raise UserError(f"{out} exists already; name another --out")
    suite = read(file, out.stem)
    head = "# Dream Fields' object-centric COCO captions (google-research, coco_queries_val.py)\n"
    write_bytes(out, (head + "\n".join(suite.prompts) + "\n").encode())
    print(f"{out}: {len(suite.prompts)} prompts, sha256 {read_suite(out).sha256}")


@toyworld_app.command(name="show", epilog='Example: harness toyworld show "a white cup with a red handle"')
def toyworld_show(
    caption: Annotated[str, typer.Argument(help="A caption in the toy world's language.")],
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("toyworld.png"),
) -> None:
    """A sheet of the caption's ground truth at the evaluation cameras."""
    from harness.toyworld.command import show as run

    print(run(caption, out))


@toyworld_app.command(name="language", epilog="Example: harness toyworld language")
def toyworld_language() -> None:
    """The words that prompts of the toy world are made of."""
    from harness.toyworld.grammar import describe

    print(describe())


@toyworld_app.command(name="train", epilog="Example: harness toyworld train clip --work build/toyworld")
def toyworld_train(
    stage: Annotated[str, typer.Argument(help="clip, vae, denoiser or all.")] = "all",
    work: Annotated[Path, typer.Option(help="Where the state of the training is kept.")] = Path(
        "build/toyworld"
    ),
) -> None:
    """Train the embedded weights from the toy world; the same command again continues."""
    from harness.toyworld.command import train as run

    run(stage, work, _say)


@toyworld_app.command(name="check", epilog="Example: harness toyworld check")
def toyworld_check() -> None:
    """What the committed weights must show, measured; exit 1 where a bar is missed."""
    from eval.clip import load_clip
    from eval.r_precision import Pool, Scorer
    from harness.toyworld.command import run_check

    clip = load_clip("toy-clip")

    def retrieval(views: Any, prompts: Any, ring: int) -> Any:
        scorer = Scorer.over(clip, Pool("toy world", "", tuple(prompts)))
        features = [clip.embed_images(images).numpy() for images in views]
        scores = [scorer.retrieve(rows_VD, ring).score(target) for target, rows_VD in enumerate(features)]
        return [(score.majority, score.per_view) for score in scores]

    raise typer.Exit(0 if run_check(retrieval, _say) else 1)


def _say(line: str) -> None:
    print(line, flush=True)


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


if __name__ == "__main__":
    main()
