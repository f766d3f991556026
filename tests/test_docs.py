"""What the pages name is there: files, tests and each other."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
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
