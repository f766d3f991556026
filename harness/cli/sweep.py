"""`harness sweep`: what is asked for, planned and run here or on Slurm."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.app import (
    INTERRUPTED,
    MethodsDir,
    PresetName,
    app,
    complete_methods,
    complete_profiles,
    complete_prompts,
    complete_settings,
    expanded,
    folder_out,
)
from harness.config import UserError, nearest
from harness.presets import DEFAULT
from harness.text import short

CLIP_TOKENS = 77  # that CLIP's text tower reads


@app.command(
    epilog="Example: harness sweep prompts/coco.txt --limit 24 --seeds 0-1 --methods uniform_sds,tp_sds:iclr"
)
def sweep(
    prompts: Annotated[
        Path,
        typer.Argument(
            help="A suite: one prompt a line.", autocompletion=complete_prompts, callback=expanded
        ),
    ],
    methods: Annotated[
        str,
        typer.Option(
            help="Methods, comma-separated; name:preset picks a preset, a@b drives a by b's timesteps. "
            "The paper's comparison by default.",
            autocompletion=complete_methods,
        ),
    ] = "",
    seeds: Annotated[str, typer.Option(help="Seeds and ranges, such as 0-2,5.")] = "0",
    steps: Annotated[
        str, typer.Option(help="Steps of each run; several, such as 100,200,400, are runs of their own.")
    ] = "",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Run the first K prompts; all stay the pool.")
    ] = None,
    spread: Annotated[
        int | None, typer.Option(min=1, help="Run K prompts at even distances through the suite.")
    ] = None,
    preset: PresetName = DEFAULT,
    prior: Annotated[
        str | None, typer.Option(help="Another diffusion prior: a folder or a Hub id, such as owner/name.")
    ] = None,
    settings: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting, such as guidance.cfg_scale=50 or tp_sds.m1=700; may be given several times.",
            autocompletion=complete_settings,
        ),
    ] = [],  # noqa: B006 - typer copies it
    pack: Annotated[str, typer.Option(help="Most runs advanced together: a number, or auto.")] = "auto",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Worker processes; one per GPU, or one, by default.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the run folders are.", callback=folder_out)] = Path("runs"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    wandb: Annotated[
        str | None, typer.Option(help="online, offline or disabled; online where WANDB_API_KEY is set.")
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(help="W&B's project, dreamtime or that of the runs there; the group is --out's name."),
    ] = None,
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
            autocompletion=complete_profiles,
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
    if pack != "auto" and not (pack.isdecimal() and len(pack) < 10 and int(pack) > 0):
        raise UserError(f"--pack takes a number of runs or auto, not '{short(pack, 60)}'")
    request = Request(
        prompts=prompts,
        methods=methods,
        seeds=seeds,
        steps=parse_steps(steps) if steps else (),
        limit=limit,
        spread=spread,
        preset=preset,
        settings=(*settings, *([f"guidance.prior={prior}"] if prior else [])),
        methods_dirs=tuple(d.resolve() for d in methods_dir),
    )
    suite, specs = request.resolve()
    _tell_of_scorers(suite, specs[0].config, preset)
    execution = execution_of(
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
        raise typer.Exit(run_sweep(out, suite, specs, execution, dry_run, retry_failed))
    from slurm.command import sweep as submit
    from slurm.profile import load

    profile = load(slurm)
    if array_parallelism:
        profile = profile.model_copy(update={"array_parallelism": array_parallelism})
    command = shlex.join(["harness", *sys.argv[1:]])
    ask = {"profile_name": slurm, "profile": profile, "command": command, "retry_failed": retry_failed}
    submit(dry_run=dry_run, root=out, suite=suite, specs=specs, execution=execution, **ask)


def _tell_of_scorers(suite: Any, config: Any, preset: str) -> None:
    """Say which captions the preset's scorers cannot tell apart or read to their ends."""
    longest = max(len(prompt.encode()) for prompt in suite.prompts)
    if config.guidance.prior == "toy-sd" or longest + 4 <= CLIP_TOKENS:  # a token is a byte or more
        return
    from eval.metrics.r_precision import cut_captions
    from harness.presets import CLIPS, load

    real = CLIPS if preset == DEFAULT else load(preset).scorers
    for line in cut_captions(suite.prompts, real[:1]):  # they read alike
        print(line, file=sys.stderr, flush=True)


def execution_of(out: Path, wandb: str | None, study: str | None = None, **settings: Any) -> Any:
    from harness.config import Execution
    from harness.records.mirror import Place
    from harness.records.tracking import default_mode

    place = Place.to_sweep(out, study)
    return Execution(wandb=wandb or default_mode(), study=place.project, sweep=place.group, **settings)  # type: ignore[arg-type]


def run_sweep(root: Path, suite: Any, specs: list, execution: Any, dry_run: bool, retry_failed: bool) -> int:
    """Plan, measure, run; returns the exit code."""
    from harness.records.folder import RunFolder
    from harness.records.identity import run_id
    from harness.sweep.display import Display, duration, number
    from harness.sweep.grid import write_suite
    from harness.sweep.plan import check_priors
    from harness.sweep.pool import Pool

    check_priors(root, specs)
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
        tell_damaged(plan.damaged)
        if not dry_run:
            for run in plan.specless:
                RunFolder.create(root, by_id[run])
        if not plan.packs and not plan.running:
            return _report(plan.done, plan.failed, [], root)
        before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            if plan.packs:
                measured = pool.measure(plan, by_id)
                for note in measured.notes:
                    print(note, flush=True)
                rate = measured.rate
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
            display.runs_done = len(plan.done) + len(plan.failed) + len(plan.damaged)
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


def tell_damaged(damaged: Mapping[str, str]) -> None:
    """Runs that the sweep leaves alone, and what is to be done about them."""
    for run, damage in list(damaged.items())[:10]:
        print(f"damaged, and left as it is: {run}: {damage}", flush=True)
    if damaged:
        more = f"… and {len(damaged) - 10} more; " if len(damaged) > 10 else ""
        print(f"{more}move a damaged folder away, and the same command makes its run anew", flush=True)


def _report(done: list[str], failed: list[str], left: list[str], root: Path) -> int:
    from harness.console import say
    from harness.records.folder import RunFolder

    text = f"{len(done)} done"
    if failed:
        failure = RunFolder(root / failed[0]).failure() or {"reason": "unknown"}
        text += (
            f", {len(failed)} failed (--retry-failed tries again), such as {failed[0]}: {failure['reason']}"
        )
    if left:
        text += f", {len(left)} left unfinished, such as {left[0]}"
    say(f"{text}; next: harness eval {root}")
    return 1 if failed or left else 0
