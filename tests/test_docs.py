"""What the pages name is there: files, tests and each other; measured p-values are exact."""

import csv
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.main import get_command

from eval.statistics.intervals import holm, sign_flip_test
from harness.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GUIDES = [
    *PAGES,
    *(ROOT / name for name in ("CONTRIBUTING.md", "prompts/README.md")),
    *(ROOT / "docs" / "results" / name for name in ("README.md", "search.md")),
    *sorted([*(ROOT / "slurm").rglob("*.md"), *(ROOT / "methods").glob("*/README.md")]),
]
COMMANDS = get_command(app)
PLACES = ("harness/", "methods/", "eval/", "slurm/", "tests/", "prompts/", "experiments/", "docs/")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_and_tests_are_there(page: Path) -> None:
    for name in re.findall(r"`([^`\s]+)`", page.read_text()):
        path, _, test = name.partition("::")
        if not path.startswith(PLACES) or re.search(r"[A-Z]{4}|[<>*{]", path):
            continue
        assert (ROOT / path).exists(), f"{page.name} names {path}"
        if test:
            assert f"def {test}(" in (ROOT / path).read_text(), f"{page.name} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def commands(text: str) -> Iterator[list[str]]:
    """The words of every `harness …` in code, by line in blocks and by pair of backticks elsewhere."""
    blocks = re.findall(r"^ *```.*?^ *```", text, re.M | re.S)
    code = [line for block in blocks for line in block.splitlines()]
    code += re.findall(r"`([^`]+)`", re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S))
    for each in code:
        for part in re.split(r"&&|;|\s\|\s", re.split(r"\s#\s", " ".join(each.split()))[0]):
            found = re.match(r"(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?harness\s+(\S.*)", part.strip())
            if found:
                yield shlex.split(found[1])


def wrong(words: list[str]) -> str | None:
    """What no command, or no option of it, is called."""
    command: Any = COMMANDS
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return words[0]
        command, words = command.commands[words[0]], words[1:]
    options = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    named = (word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word))
    return next((name for name in named if name not in {*options, "--help", "-h"}), None)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_their_options_exist(page: Path) -> None:
    for words in commands(page.read_text()):
        assert wrong(words) is None, f"{page.name}: harness {shlex.join(words)}"


def test_a_command_that_does_not_exist_is_noticed() -> None:
    text = (
        "`harness gc runs --runs x`\n```\nharness sweep coco --sed 1   # --x\nharness slurm profil new\n```\n"
    )
    assert [wrong(words) for words in commands(text)] == ["--sed", "profil", "--runs"]
    assert [words[0] for words in commands((ROOT / "docs" / "slurm.md").read_text())].count("sweep") == 2


MEASURED = sorted(
    path
    for name in ("differences", "contrasts", "schedules")
    for path in (ROOT / "docs" / "results").glob(f"*-toy/**/{name}.csv")
)


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: "/".join(path.parts[-3:]))
def test_p_values_of_results_are_those_of_what_was_won_and_lost(path: Path) -> None:
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    adjusted = holm({k: float(row["p"]) for k, row in enumerate(rows)})
    for k, row in enumerate(rows):
        assert float(row["p (Holm)"]) == pytest.approx(adjusted[k], rel=1e-4), row["method"]
        if row["pairs"] == row["prompts"]:  # of several seeds the pairs of a prompt are one sign
            signs = np.repeat([1.0, -1.0], [int(row["won"]), int(row["lost"])])
            exact = sign_flip_test(signs, np.random.default_rng(0)) if len(signs) else 1.0
            assert float(row["p"]) == pytest.approx(exact, rel=1e-4), row["method"]
