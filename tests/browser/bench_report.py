"""How the report behaves with the paper's 2 295 runs (153 prompts × 3 methods × 5 seeds), in a real Chromium.

    python -m tests.browser.bench_report RUNS

makes them out of the real runs in RUNS, whose pictures, logs and features they share by hard links, computes
their numbers, writes their report twice, and prints how long that took, what is transferred before anybody
scrolls, and how long interactions take until the next frame is drawn. Nothing of it is a test.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import sync_playwright

from eval.command import open_runs
from eval.report.results import results
from eval.report.write import write_report
from harness.records.files import write_json
from harness.records.folder import run_folders
from harness.records.identity import run_id
from harness.sweep.grid import read_suite, write_suite
from harness.toyworld.render import ground_truth
from tests.browser.conftest import QUIET

SEEDS = 5
SHARED = ("views", "eval", "metrics.jsonl", "result.json", "env.json", "state.json", "log.txt")

# Sweep the action and resolves once its next frame has been drawn, in ms.
FRAME = """async (act) => {
  const start = performance.now();
  (0, eval)(act);
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - start;
}"""


def type_(text: str) -> str:
    return (
        "{const i = document.querySelector('input[type=search]'); "
        f"i.value = '{text}'; i.dispatchEvent(new Event('input', {{bubbles: true}}));}}"
    )


def pick(name: str, value: str) -> str:
    return (
        "{const labels = [...document.querySelectorAll('#filters label')]; "
        f"const s = labels.find(e => e.textContent.startsWith('{name}')).querySelector('select'); "
        f"s.value = '{value}'; s.dispatchEvent(new Event('change'));}}"
    )


ACTIONS = {
    "a letter in the prompt's filter": type_("r"),
    "a word in it": type_("red"),
    "the filter emptied": type_(""),
    "one method only": "document.querySelector('#filters input[type=checkbox]').click()",
    "all methods again": "document.querySelector('#filters input[type=checkbox]').click()",
    "sorted by looks": pick("Sort", "looks"),
    "sorted by measure": pick("Sort", "measure"),
    "missed runs only": pick("State", "miss"),
    "all states again": pick("State", ""),
    "a run chosen": "document.querySelector('.pick').click()",
    "scrolled by 5 000 pixels": "scrollBy(0, 5000)",
}


def multiply(source: Path, root: Path) -> int:
    """Run folders of every prompt × method × seed, each with the files of one of `source`'s; how many."""
    suite = read_suite(Path(__file__).parents[2] / "prompts" / "coco.txt")
    write_suite(root, suite)
    real = [folder for folder in run_folders(source) if folder.status() == "done"]
    methods = sorted({folder.spec().label for folder in real})
    made = 0
    for label in methods:
        own = [folder for folder in real if folder.spec().label == label]
        for prompt in suite.prompts:
            for seed in range(SEEDS):
                like = own[made % len(own)]
                spec = like.spec().model_copy(update={"prompt": prompt, "seed": seed, "suite": suite.ref})
                folder = root / run_id(spec)
                folder.mkdir()
                write_json(folder / "spec.json", spec.model_dump(mode="json"), durable=False)
                for name in SHARED:
                    if (like.path / name).is_dir():
                        shutil.copytree(like.path / name, folder / name, copy_function=os.link)
                    elif (like.path / name).exists():
                        os.link(like.path / name, folder / name)
                made += 1
    return made


class Counting(SimpleHTTPRequestHandler):
    """Serves a folder and counts what goes out."""

    protocol_version = "HTTP/1.1"  # a connection takes more than one request
    sent: list[int]

    def __init__(self, *arguments, sent: list[int], **options):
        self.sent = sent
        super().__init__(*arguments, **options)

    def copyfile(self, source, outputfile) -> None:
        data = source.read()
        self.sent.append(len(data))
        outputfile.write(data)

    def log_message(self, *arguments) -> None:
        pass


def main(source: Path) -> None:
    with tempfile.TemporaryDirectory(dir=source.resolve().parent) as scratch:
        root = Path(scratch, "runs")
        root.mkdir()
        print(f"{multiply(source, root)} runs")
        out = root / "eval" / "report"
        start = time.monotonic()
        numbers = results(open_runs(root, samples=0, ground_truth=ground_truth))
        print(f"numbers, from cached features: {time.monotonic() - start:.0f} s")
        for what in ("written", "written again"):
            start = time.monotonic()
            write_report(root, out, lambda: numbers)
            size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
            print(f"{what} in {time.monotonic() - start:.0f} s, {size / 1e6:.0f} MB")
        measure(out)


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """The address of a folder on loopback, and the bytes of each file that went out so far."""
    sent: list[int] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Counting, directory=str(folder), sent=sent))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", sent
    server.shutdown()
    server.server_close()


def measure(out: Path) -> None:
    with serving(out) as (base, sent), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(QUIET))
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(base, wait_until="networkidle")
        shown = page.evaluate("performance.getEntriesByType('paint').at(-1)?.startTime ?? 0")
        size = f"{sum(sent) / 1e6:.2f} MB in {len(sent)} files"
        print(f"before scrolling: {size}; painted after {shown:.0f} ms")
        page.evaluate("document.querySelector('#gallery-title').scrollIntoView()")
        page.wait_for_timeout(1500)
        print(f"with the gallery's beginning in view: {sum(sent) / 1e6:.2f} MB")
        for name, act in ACTIONS.items():
            page.wait_for_timeout(700)
            print(f"{name}: {page.evaluate(FRAME, act):.0f} ms")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
