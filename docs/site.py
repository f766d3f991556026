"""`make site`: the pages of this repository, and a reference made from the code, as a site in build/site.

Every link and every anchor is checked; a page that leads nowhere fails the build.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort
from typer.testing import CliRunner

from harness.cli.app import GROUPS, app
from harness.sweep import experiment

ROOT = Path(__file__).resolve().parent.parent
PAGES, SITE = ROOT / "build" / "pages", ROOT / "build" / "site"
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)")
GUIDES = (
    "slurm",
    "containers",
    "priors",
    "wandb",
    "report",
    "objects",
    "study",
    "search",
    "publishing",
    "library",
    "footguns",
)
NAV = {
    "First hour": ["README.md", "docs/first-hour.md", "docs/first-look.md"],
    "Guides": ["docs/README.md", *(f"docs/{name}.md" for name in GUIDES), "prompts/README.md"],
    "What numbers mean": [
        f"docs/{name}.md" for name in ("protocol", "reliability", "performance", "toyworld")
    ],
    "Results": ["docs/results/README.md"],
    "Extending": [
        *(f"docs/{name}.md" for name in ("extending", "scenes", "architecture")),
        "CONTRIBUTING.md",
        "CHANGELOG.md",
    ],
    "Reference": [
        "docs/methods.md",
        *(f"reference/{name}.md" for name in ("commands", "settings", "metrics", "experiments")),
    ],
}
WARN = dict.fromkeys(("not_found", "anchors", "absolute_links", "unrecognized_links"), "warn")


def sources() -> Iterator[Path]:
    """The pages and pictures of the site, as they lie in the repository."""
    yield from (ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "prompts/README.md"))
    yield ROOT / "slurm" / "testbed" / "README.md"
    yield from (ROOT / "methods").glob("*/README.md")
    for kind in ("md", "png", "ipynb", "csv"):
        yield from (ROOT / "docs").rglob(f"*.{kind}")


def relinked(text: str, page: Path, known: set[Path]) -> str:
    """A page whose links to files that are not of the site are plain text; a folder's is its page's."""

    def link(found: re.Match[str]) -> str:
        mark, shown, target, anchor = found.groups()
        if not target or "://" in target or target.startswith("mailto:"):
            return found[0]
        path = (page.parent / target).resolve()
        if path.is_dir() and path / "README.md" in known:
            return f"{mark}[{shown}]({target.rstrip('/')}/README.md{anchor or ''})"
        return found[0] if path in known else shown

    return LINK.sub(link, text)


def reference() -> Iterator[tuple[str, str]]:
    """Pages that are made from the code: name and text."""
    runner = CliRunner()

    def said(*words: str) -> str:
        done = runner.invoke(app, [*words], env={"COLUMNS": "100", "TERM": "dumb"})
        if done.exit_code:
            raise SystemExit(f"harness {' '.join(words)}: {done.output}")
        return done.output.rstrip()

    lines = ["# Commands", ""]
    for group, commands in GROUPS.items():
        lines += [f"## {group}", ""]
        for name, summary in commands.items():
            lines += [f"### harness {name}", "", summary, "", "```text", said(name, "--help"), "```", ""]
    yield "commands.md", "\n".join(lines)
    yield "settings.md", f"# Settings\n\nEvery key of `--set`.\n\n```text\n{said('settings')}\n```\n"
    yield "metrics.md", f"# Metrics\n\n{said('metrics', '--markdown')}\n"
    lines = ["# Experiments", "", "`harness reproduce NAME --size toy`.", ""]
    for name in experiment.names():
        asked = experiment.load(name)
        lines += [
            f"## {name}",
            "",
            f"**{asked.title}.** Source: {asked.source}.",
            "",
            asked.reads.strip(),
            "",
        ]
        lines += ["Plan, written before it was run:", "", asked.plan.strip(), ""] if asked.plan else []
    yield "experiments.md", "\n".join(lines)


def main() -> None:
    """Collect, generate, build; exit code 1 where a link leads nowhere."""
    shutil.rmtree(PAGES, ignore_errors=True)
    known = {path.resolve() for path in sources()}
    for path in sorted(known):
        out = PAGES / path.relative_to(ROOT)
        out.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            out.write_text(relinked(path.read_text(), path, known))
        else:
            shutil.copy(path, out)
    (PAGES / "reference").mkdir()
    for name, text in reference():
        (PAGES / "reference" / name).write_text(text)
    config = {
        "site_name": "dreamtime-harness",
        "docs_dir": str(PAGES),
        "site_dir": str(SITE),
        "use_directory_urls": False,
        "nav": [{title: pages} for title, pages in NAV.items()],
        "theme": {"name": "material", "font": False, "features": ["navigation.sections", "toc.follow"]},
        "validation": {"nav": {"omitted_files": "ignore"}, "links": WARN},
        "markdown_extensions": ["tables", "fenced_code"],
    }
    file = ROOT / "build" / "mkdocs.yml"
    file.write_text(json.dumps(config))
    logging.basicConfig(level=logging.WARNING, format="%(message)s")  # which link leads nowhere
    try:
        build(load_config(str(file), strict=True))
    except Abort as error:
        sys.exit(str(error))
    print(f"{SITE}/README.html" if (SITE / "README.html").exists() else f"{SITE}/index.html")


if __name__ == "__main__":
    main()
