"""What this machine has and how fast it is; priors for benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Exit, Option

from harness.cli.app import (
    Encoder,
    MethodsDir,
    PresetName,
    PriorName,
    ScenesDir,
    Settings,
    app,
    expanded,
    into,
)
from harness.config import UserError
from harness.console import busy
from harness.presets import DEFAULT


@app.command(epilog="Example: harness bench --check")
def bench(
    what: Annotated[
        Literal["engine", "spread", "contention", "methods", "logs", "slurm", "study", "scenes", "coverage"],
        Argument(
            help="engine: packed against solo, the usual loop and the denoiser alone; spread: a seed run "
            "again against another seed; contention: a step alone and beside busy processes; methods: a step "
            "of every method of RUNS side by side, kept with them as their wall time; logs: loading those of "
            "2295 runs of 10 000 steps (3.6 GB of disk); slurm: a disturbed sweep through slurm/testbed; "
            "study: 200 raters at once; scenes: a step and the ceiling of every kind of scene in the toy "
            "world; coverage: how often the printed intervals hold the truth, by "
            "simulation (docs/protocol.md)."
        ),
    ] = "engine",
    folder: Annotated[
        Path | None,
        Argument(metavar="[RUNS]", help="methods: the folder that a sweep wrote.", callback=expanded),
    ] = None,
    check: Annotated[bool, Option("--check", help="Exit with 1 where a bar is missed.")] = False,
    runs: Annotated[
        int, Option(min=8, help="slurm: runs of the disturbed sweep; coverage: studies of a cell.")
    ] = 1000,
    preset: PresetName = DEFAULT,
    prior: PriorName = None,
    settings: Settings = [],  # noqa: B006 - typer copies it
    encoder: Encoder = "auto",
    scenes_dir: ScenesDir = [],  # noqa: B006
    methods_dir: MethodsDir = [],  # noqa: B006
) -> None:
    """Speed, side by side, as ratios; how logs load; what a cluster and a crowd of raters cost and lose.

    Engine, spread, contention and scenes are of a preset, a prior and settings.
    """
    if what == "logs":
        from eval.sources.bench_logs import run as run_logs

        raise Exit(int(not run_logs().ok and check))
    if what == "slurm":
        from slurm.bench import run as run_slurm

        raise Exit(int(not run_slurm(runs) and check))
    if what == "study":
        from eval.preference.bench import run as run_study

        raise Exit(int(not run_study() and check))
    if what == "coverage":
        with busy("loading libraries"):
            from eval.statistics.bench_coverage import run as run_coverage

        raise Exit(int(not run_coverage(runs) and check))
    if what == "methods":
        with busy("loading libraries"):
            from harness.bench_methods import run as run_methods

        raise Exit(int(not run_methods(folder or Path("runs"), methods_dir) and check))
    if folder:
        raise UserError(f"harness bench {what} takes no RUNS, and got '{folder}'; `bench methods RUNS` does")
    with busy("loading libraries"):
        from harness import bench as engine
    from harness.doctor import pin, resolve

    config = pin(resolve(preset, prior, settings))
    if what == "scenes":
        with busy("loading libraries"):
            from harness.bench_scenes import run as run_scenes

        raise Exit(run_scenes(config))
    if what == "spread":
        raise Exit(engine.spread(config))
    if what == "engine":
        raise Exit(engine.run(config, check=check, requested=encoder))
    raise Exit(engine.contention(config, check=check))


@app.command(epilog="Example: harness doctor --preset paper --fetch")
def doctor(
    runs: Annotated[
        Path | None,
        Argument(
            help="Try the file system of this folder, too: locks, renaming, fsync, its clock.",
            callback=expanded,
        ),
    ] = None,
    preset: PresetName = DEFAULT,
    prior: PriorName = None,
    settings: Settings = [],  # noqa: B006 - typer copies it
    clip: Annotated[
        str, Option(help="Scorers, comma-separated; those of the preset's experiments by default.")
    ] = "",
    metrics: Annotated[
        str, Option(help="--fetch: the weights of these metrics, too, such as pick_score,hps.")
    ] = "",
    out: Annotated[Path, Option(help="Where the run folders will be.", callback=expanded)] = Path("runs"),
    fetch: Annotated[
        bool, Option("--fetch", help="Download the weights that are not here, for jobs without internet.")
    ] = False,
    lock: Annotated[
        Path | None,
        Option(
            help="--fetch: take the commits and check the files of this lock file; what it lacks is added.",
            callback=expanded,
        ),
    ] = None,
    estimate: Annotated[
        bool, Option("--estimate", help="Measure a few steps: what the paper's comparison costs here.")
    ] = False,
    as_json: Annotated[bool, Option("--json", help="Print JSON.")] = False,
) -> None:
    """What this machine has of what a preset needs; exit 1 where something is missing."""
    from harness import doctor

    with busy("reading settings"):
        config = doctor.resolve(preset, prior, settings)
        clips = doctor.scorers(preset, clip)
    if metrics and not fetch:
        raise UserError("--metrics names what --fetch brings; every metric is looked at anyway")
    if lock and not fetch:
        raise UserError("--lock is of what --fetch brings")
    if fetch:
        names = [name.strip() for name in metrics.split(",") if name.strip()]
        doctor.fetch_and_tell(config, clips, as_json, names, lock)
    elif not doctor.tell(config, clips, runs or out, as_json, estimate, files=runs is not None):
        raise Exit(1)


@app.command(
    name="make-prior", epilog="Example: harness make-prior --like sd14 --random --out build/random-sd14"
)
def make_prior(
    like: Annotated[str, Option(help="Whose architecture, as `harness families` lists them.")],
    out: Annotated[Path, into("The pipeline folder to write.")],
    random: Annotated[
        bool, Option("--random", help="Random weights, which this command makes and no others.")
    ] = False,
    size: Annotated[str, Option(help="full, or tiny: the same classes at toy width.")] = "full",
    seed: Annotated[int, Option(help="What the weights are drawn from.")] = 0,
    dtype: Annotated[str, Option(help="float16 or float32.")] = "float16",
    tokenizer: Annotated[str, Option(help="clip, whose vocabulary comes with open_clip, or bytes.")] = "clip",
) -> None:
    """A prior of a published size with random weights, for benchmarks: no result comes of it."""
    from harness.guidance.family import architecture

    architecture(like)
    if not random:
        raise UserError("make-prior makes random weights only, and wants to hear it: add --random")
    with busy("loading libraries, and writing random weights"):
        from harness.guidance.random_prior import make_prior as make

        make(out, like, size=size, seed=seed, dtype=dtype, tokenizer=tokenizer)
    print(f"{out}: {like} {size}, RANDOM WEIGHTS; use it: --set guidance.prior={out}")
