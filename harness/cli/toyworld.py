"""`harness prompts` and `harness toyworld`: suites and the embedded world."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.app import expanded, file_out, folder_out, prompts_app, toyworld_app
from harness.config import UserError


@prompts_app.command(
    name="import-dreamfields",
    epilog="Example: harness prompts import-dreamfields coco_queries_val.py --out dreamfields.txt",
)
def import_dreamfields(
    file: Annotated[
        Path,
        typer.Argument(help="Your own copy of google-research's coco_queries_val.py.", callback=expanded),
    ],
    out: Annotated[Path, typer.Option(help="The suite to write.", callback=file_out)] = Path(
        "dreamfields.txt"
    ),
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
    out: Annotated[Path, typer.Option(help="The picture to write.", callback=file_out)] = Path(
        "toyworld.png"
    ),
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
    work: Annotated[
        Path, typer.Option(help="Where the state of the training is kept.", callback=folder_out)
    ] = Path("build/toyworld"),
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
