"""`harness sweep`: what is asked for, planned and run here or on Slurm."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from harness.cli.app import (
    Device,
    DryRun,
    Encoder,
    MethodsDir,
    PresetName,
    PriorName,
    ScenesDir,
    Wandb,
    app,
    complete_methods,
    complete_profiles,
    complete_prompts,
    complete_settings,
    expanded,
    into,
)
from harness.config import UserError
from harness.presets import DEFAULT
from harness.text import short


@app.command(epilog="Example: harness sweep coco --limit 24 --seeds 0-1 --methods uniform_sds,tp_sds:iclr")
def sweep(
    prompts: Annotated[
        Path | None,
        Argument(
            help="A suite: a name of `harness prompts list`, a file, one prompt a line, or FILE.csv:COLUMN.",
            autocompletion=complete_prompts,
            callback=expanded,
        ),
    ] = None,
    prompt: Annotated[
        list[str], Option("--prompt", help="A prompt, of the suite where one is named; several times.")
    ] = [],  # noqa: B006
    methods: Annotated[
        str,
        Option(
            help="Methods, comma-separated; name:preset picks a preset, a@b drives a by b's timesteps. "
            "The paper's comparison by default.",
            autocompletion=complete_methods,
        ),
    ] = "",
    seeds: Annotated[str, Option(help="Seeds and ranges, such as 0-2,5.")] = "0",
    steps: Annotated[
        str, Option(help="Steps of each run; several, such as 100,200,400, are runs of their own.")
    ] = "",
    limit: Annotated[int | None, Option(min=1, help="Run the first K prompts; all stay the pool.")] = None,
    spread: Annotated[
        int | None, Option(min=1, help="Run K prompts at even distances through the suite.")
    ] = None,
    split: Annotated[
        str | None, Option(help="Run a part that the suite's head declares, such as test.")
    ] = None,
    preset: PresetName = DEFAULT,
    prior: PriorName = None,
    settings: Annotated[
        list[str],
        Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting, such as tp_sds.m1=700; several values, guidance.cfg_scale=7.5,20, are an axis.",
            autocompletion=complete_settings,
        ),
    ] = [],  # noqa: B006 - typer copies it
    recommended: Annotated[
        bool,
        Option(
            "--recommended",
            help="Each method at the settings its authors recommend, except what --set says; of a@b a's.",
        ),
    ] = False,
    pack: Annotated[str, Option(help="Most runs advanced together: a number, or auto.")] = "auto",
    jobs: Annotated[
        int | None, Option(min=1, help="Worker processes; one per GPU, or one, by default.")
    ] = None,
    out: Annotated[Path, into("Where the run folders are.")] = Path("runs"),
    device: Device = "auto",
    wandb: Wandb = None,
    study: Annotated[
        str | None,
        Option("--study", "--wandb-project", help="W&B's project; dreamtime, or that of the runs there."),
    ] = None,
    wandb_group: Annotated[
        str, Option("--wandb-group", help="W&B's group; the name of --out, or that of the runs there.")
    ] = "",
    checkpoint_every: Annotated[int, Option(min=1, help="Steps between checkpoints.")] = 100,
    log_every: Annotated[int, Option(min=1, help="Steps between rows of metrics.jsonl.")] = 10,
    keep_params: Annotated[
        bool, Option("--keep-params", help="Keep the parameters of every evaluated step (Fig. 3).")
    ] = False,
    deterministic: Annotated[
        bool, Option("--deterministic", help="The same bits again on a GPU, at a price; a CPU has them.")
    ] = False,
    encoder: Encoder = "auto",
    methods_dir: MethodsDir = [],  # noqa: B006
    scenes_dir: ScenesDir = [],  # noqa: B006
    slurm: Annotated[
        str | None,
        Option(
            metavar="[PROFILE]",
            help="Submit to Slurm and return at once; `harness slurm profile new` writes a profile.",
            autocompletion=complete_profiles,
        ),
    ] = None,
    array_parallelism: Annotated[
        int | None, Option(min=1, help="Most Slurm tasks at a time; the profile's by default.")
    ] = None,
    dry_run: DryRun = False,
    retry_failed: Annotated[
        bool,
        Option(
            "--retry-failed",
            help="Try failed runs again, from the start where their method's code has changed.",
        ),
    ] = False,
    keep: Annotated[
        bool, Option("--keep", help="Keep runs that were made with other code of their method.")
    ] = False,
    redo: Annotated[
        bool, Option("--redo", help="Make those anew; what there was goes to RUNS/trash.")
    ] = False,
) -> None:
    """Run every prompt × method × seed that is not done yet; the same command again continues."""
    from harness.console import busy
    from harness.sweep.request import Request, execution_of, parse_steps

    if pack != "auto" and not (pack.isdecimal() and len(pack) < 10 and int(pack) > 0):
        raise UserError(f"--pack takes a number of runs or auto, not '{short(pack, 60)}'")
    if prompts is None and not prompt:
        raise UserError('which prompts? Name a suite, such as coco, or give --prompt "a red car"')
    if keep and redo:
        raise UserError("--keep and --redo are for the same runs: give one of them")
    others = "keep" if keep else "redo" if redo else "refuse"
    request = Request(
        prompts=prompts,
        texts=tuple(prompt),
        methods=methods,
        seeds=seeds,
        steps=parse_steps(steps) if steps else (),
        limit=limit,
        spread=spread,
        split=split,
        preset=preset,
        settings=(*settings, *([f"guidance.prior={prior}"] if prior else [])),
        methods_dirs=tuple(d.resolve() for d in methods_dir),
        recommended=recommended,
    )
    with busy("reading methods, prompts and the prior's tokenizer"):
        suite, specs = request.resolve()
        request.tell_of_scorers(suite, specs[0].config)
    execution = execution_of(
        out,
        wandb,
        pack=None if pack == "auto" else int(pack),
        jobs=jobs,
        device=device,
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        study=study,
        group=wandb_group,
        keep_params=keep_params,
        deterministic=deterministic,
        encoder=encoder,
        methods_dirs=tuple(map(str, request.methods_dirs)),
        scenes_dirs=tuple(str(each.resolve()) for each in scenes_dir),
    )
    if slurm is None:
        from harness.sweep.local import sweep as run

        raise Exit(run(out, suite, specs, execution, dry_run, retry_failed, others))
    from slurm.profile import load
    from slurm.submit import Submission
    from slurm.submit import sweep as submit

    profile = load(slurm)
    if array_parallelism:
        profile = profile.model_copy(update={"array_parallelism": array_parallelism})
    command = shlex.join(["harness", *sys.argv[1:]])
    submit(Submission(out, suite, specs, execution, slurm, profile, command, retry_failed, others), dry_run)
