"""A blind preference study: made of runs, hosted, and its raters' links."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from typer import Option

from harness.cli.app import Filter, Runs, Study, expanded, into, study_app
from harness.config import UserError
from harness.console import busy


@study_app.command(epilog="Example: harness study new runs --a tp_sds --b uniform_sds")
def new(
    runs: Runs,
    a: Annotated[str, Option("--a", help="A method, as tables name it.")],
    b: Annotated[str, Option("--b", help="The one it is compared with.")],
    words: Filter = [],  # noqa: B006
    more: Annotated[list[str], Option("--method", help="One more; every two are compared.")] = [],  # noqa: B006
    question: Annotated[
        list[str],
        Option(
            metavar="ID[=TEXT]",
            help="What raters are asked; may be given several times. Alignment, shape, texture and overall "
            "by default.",
        ),
    ] = [],  # noqa: B006
    prompts: Annotated[int | None, Option(min=1, help="Only the suite's first so many.")] = None,
    repeats: Annotated[
        int | None, Option(min=0, help="Pairs shown to a rater twice; a tenth by default.")
    ] = None,
    ties: Annotated[
        int | None, Option(min=0, help="Runs shown against themselves; a tenth by default.")
    ] = None,
    seed: Annotated[int, Option(help="Which runs become hidden ties is drawn from it.")] = 0,
    consent: Annotated[
        Path | None, Option(help="A text file that raters agree to first.", callback=expanded)
    ] = None,
    title: Annotated[str, Option(help="What raters read above it.")] = "Comparing objects made from text",
    out: Annotated[Path | None, into("The folder to write; RUNS/studies/TITLE by default.")] = None,
) -> None:
    """Pair done runs by prompt and seed, and make the folder of a study."""
    with busy("loading libraries"):
        from eval.preference.design import STUDIES
        from eval.preference.making import CONSENT, new_study, parse_questions
    from harness.records.files import read_text
    from harness.records.identity import slug
    from harness.sweep.select import select

    text = read_text(consent) if consent else CONSENT
    if not text.strip():
        raise UserError(f"--consent {consent} is empty")
    out = out or runs / STUDIES / (slug(title) or "study")
    with busy("pairing runs and copying their views"):
        design = new_study(
            runs,
            [a, b, *more],
            out,
            questions=parse_questions(question),
            only={folder.id for folder in select(runs, words)} if words else None,
            title=title,
            consent=text,
            prompts=prompts,
            repeats=repeats,
            ties=ties,
            seed=seed,
        )
    mark = f" ({design.mark})" if design.mark else ""
    print(
        f"{out}{mark}: {len(design.real)} pairs of {', '.join(design.methods)}; hidden ties: {design.ties}, "
        f"repeats: {design.repeats}; next: harness study links {out} --count 20"
    )


@study_app.command(
    epilog="Example: harness study links study --count 20 --base-url https://study.example.org"
)
def links(
    study: Study,
    count: Annotated[int, Option(min=1, help="How many raters to add.")] = 1,
    base_url: Annotated[str, Option(help="Where raters will reach it.")] = "http://127.0.0.1:8000",
    per_rater: Annotated[
        int | None, Option(min=1, help="Real pairs per rater, least shown first; all by default.")
    ] = None,
) -> None:
    """Add raters and print a link for each, once: only hashes are kept."""
    from eval.preference.design import load_design
    from eval.preference.store import DATABASE, Store
    from eval.preference.trials import add_raters

    if not base_url.startswith(("http://", "https://")):
        raise UserError(f"--base-url {base_url}: begin with https:// or http://")
    design = load_design(study)
    with Store(study / DATABASE) as store:
        tokens = add_raters(design, store, count, per_rater)
    for token in tokens:
        print(f"{base_url.rstrip('/')}/r/{token}")


@study_app.command(epilog="Example: harness study serve study --port 8000")
def serve(
    study: Study,
    host: Annotated[str, Option(help="Address to listen on; this machine alone by default.")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="0 for any free one.")] = 8000,
) -> None:
    """Host the study until Ctrl-C; raters enter by their links."""
    from eval.preference.app import is_loopback
    from eval.preference.app import serve as run

    if not is_loopback(host):
        print(
            f"harness: {host} can be reached from other machines, without encryption: put a proxy with https "
            "in front, and let this listen on 127.0.0.1",
            file=sys.stderr,
        )
    run(study, host, port, lambda url: print(url, flush=True))
