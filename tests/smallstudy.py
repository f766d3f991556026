"""A small preference study over small run folders, and a real server process for it."""

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eval.preference.design import load_design
from eval.preference.making import new_study, parse_questions
from eval.preference.store import DATABASE, Store
from eval.preference.trials import add_raters
from harness.records.identity import SuiteRef
from tests.eval.conftest import COLOURS, Sweep

METHODS = ("tp_sds", "uniform_sds")
COMMAND = [sys.executable, "-m", "harness.cli", "study"]


def fill_runs(
    root: Path, prompts: Sequence[str], methods: Sequence[str] = METHODS, seeds: Sequence[int] = (0,)
) -> Sweep:
    """Done runs; the views of a prompt's run are of a colour of its own method's."""
    digest = hashlib.sha256("\n".join(prompts).encode()).hexdigest()
    suite = SuiteRef(name="small", sha256=digest, size=len(prompts))
    runs = Sweep(root, suite, tuple(prompts))
    for index, method in enumerate(methods):
        for prompt in prompts:
            for seed in seeds:
                runs.add(method, prompt, seed, shows=list(COLOURS)[index])
    return runs


def make_study(folder: Path, prompts: Sequence[str], **options: Any) -> Path:
    """A study of all runs of `fill_runs`, in `folder`/study."""
    methods = options.pop("methods", METHODS)
    runs = fill_runs(folder / "runs", prompts, methods, options.pop("seeds", (0,)))
    questions = parse_questions(options.pop("question", ("alignment", "overall")))
    new_study(runs.root, methods, folder / "study", questions=questions, **options)
    return folder / "study"


def tokens(study: Path, count: int = 1, per_rater: int | None = None) -> list[str]:
    """New raters' tokens."""
    with Store(study / DATABASE) as store:
        return add_raters(load_design(study), store, count, per_rater)


def answers(study: Path) -> list[tuple[str, int, str, str]]:
    """Every stored answer: rater, position, question, choice."""
    with Store(study / DATABASE) as store:
        return store.write(
            lambda db: db.execute(
                "SELECT rater, position, question, choice FROM answers ORDER BY rater, position, question"
            ).fetchall()
        ).result()


@contextmanager
def served(study: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`harness study serve` as a process of its own: its address, and the process."""
    server = subprocess.Popen(
        [*COMMAND, "serve", str(study), "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout
    try:
        yield server.stdout.readline().strip().rstrip("/"), server
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def hidden(page: Any) -> dict[str, str]:
    """The hidden fields of a page's form."""
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page.text))


def pictures(page: Any) -> list[str]:
    """The addresses of the two pictures that a page shows."""
    return re.findall(r'<img src="([^"]+)"', page.text)


def begin(client: Any, token: str) -> Any:
    """Follow a rater's link and agree; the first comparison's page."""
    page = client.get(f"/r/{token}", follow_redirects=True)
    return client.post("/consent", data=hidden(page), follow_redirects=True)


def reply(client: Any, page: Any, *choices: str) -> Any:
    """Post one choice per question of a comparison's page, the last for all that remain."""
    names = list(dict.fromkeys(re.findall(r'name="(q\.\w+)"', page.text)))
    chosen = dict(zip(names, [*choices, *[choices[-1]] * len(names)], strict=False))
    return client.post("/answer", data=hidden(page) | chosen, follow_redirects=True)
