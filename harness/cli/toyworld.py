"""`harness prompts` and `harness toyworld`: suites and the embedded world."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Exit, Option

from harness.cli.app import Device, expanded, file_out, into, prompts_app, toyworld_app
from harness.config import UserError
from harness.console import busy


@prompts_app.command(name="list", epilog="Example: harness prompts list")
def list_suites() -> None:
    """The suites that come with the harness, which `harness sweep` takes by their names."""
    from harness.sweep.grid import read_suite, suites

    for name in suites():
        suite = read_suite(name)
        about = {"version": "1", "licence": "no licence named"} | dict(suite.about)
        print(f"{name:<12} {len(suite.prompts):>4} prompts  v{about['version']}  {about['licence']}")


@prompts_app.command(
    name="import-dreamfields",
    epilog="Example: harness prompts import-dreamfields coco_queries_val.py --out dreamfields.txt",
)
def import_dreamfields(
    file: Annotated[
        Path, Argument(help="Your own copy of google-research's coco_queries_val.py.", callback=expanded)
    ],
    out: Annotated[Path, Option(help="The suite to write.", callback=file_out)] = Path("dreamfields.txt"),
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
    caption: Annotated[str, Argument(help="A caption in the toy world's language.")],
    out: Annotated[Path, Option(help="The picture to write.", callback=file_out)] = Path("toyworld.png"),
) -> None:
    """A sheet of the caption's ground truth at the evaluation cameras."""
    with busy("loading libraries"):
        from harness.toyworld.command import show as run

    print(run(caption, out))


@toyworld_app.command(name="language", epilog="Example: harness toyworld language")
def toyworld_language() -> None:
    """The words that prompts of the toy world are made of."""
    from harness.toyworld.grammar import describe

    print(describe())


@toyworld_app.command(
    name="train", epilog="Example: harness toyworld train --device cuda --minutes 9 --out build/weights"
)
def toyworld_train(
    stage: Annotated[str, Argument(help="clip, vae, denoiser or all.")] = "all",
    work: Annotated[Path, into("Where the state of the training is kept.")] = Path("build/toyworld"),
    out: Annotated[Path | None, into("Where the weights go; by default the package's own.")] = None,
    start: Annotated[
        Path | None,
        Option("--from", help="A folder of toy-sd and toy-clip to train on from.", callback=expanded),
    ] = None,
    device: Device = "auto",
    minutes: Annotated[float | None, Option(help="Minutes of work, shared out among the stages.")] = None,
    steps: Annotated[int | None, Option(min=1, help="Steps of each stage, instead of minutes.")] = None,
    seed: Annotated[int, Option(min=0, help="Of first weights, of scenes and of noise.")] = 0,
    anew: Annotated[
        bool, Option("--anew", help="Take the autoencoder alone from --from, and begin a new denoiser.")
    ] = False,
) -> None:
    """Train the embedded weights from the toy world; the same command again continues."""
    with busy("loading libraries"):
        from harness.toyworld.command import WEIGHTS
        from harness.toyworld.command import train as run

    run(
        stage, work, _say, seed=seed, out=out or WEIGHTS, device=device,
        minutes=minutes, start=start, steps=steps, anew=anew,
    )  # fmt: skip


@toyworld_app.command(name="check", epilog="Example: harness toyworld check")
def toyworld_check(
    weights: Annotated[
        Path | None,
        Option(help="A folder of toy-sd and toy-clip; the package's own by default.", callback=expanded),
    ] = None,
) -> None:
    """What the weights must show, measured and noted in their cards; exit 1 where a bar is missed."""
    with busy("loading libraries"):
        from eval.scorers.clip import load_clip
        from eval.scorers.retrieval import Pool, Scorer
        from harness.toyworld.command import WEIGHTS, run_check

    folder = (weights or WEIGHTS).resolve()
    clip = load_clip(str(folder / "toy-clip"))

    def retrieval(views: Any, prompts: Any, ring: int) -> Any:
        scorer = Scorer.over(clip, Pool("toy world", "", tuple(prompts)))
        features = [clip.embed_images(images).numpy() for images in views]
        scores = [scorer.retrieve(rows_VD, ring).score(target) for target, rows_VD in enumerate(features)]
        return [(score.majority, score.per_view) for score in scores]

    raise Exit(0 if run_check(clip, retrieval, _say, folder) else 1)


def _say(line: str) -> None:
    print(line, flush=True)
