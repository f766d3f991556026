"""`harness bench study`: many raters at once on loopback, each answer looked for afterwards.

The server is a process of its own, as `harness study serve` runs it; the raters are this process, so on two
cores they take time from it. A rater's comparison is four requests: the answers, the next page, and two
pictures. What a request took is counted from its first byte out to its last byte in.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
from rich.table import Table

from eval.preference.design import load_design
from eval.preference.making import new_study, parse_questions
from eval.preference.store import CHOICES, DATABASE, Store, token_hash
from eval.preference.trials import add_raters
from harness.console import Console
from harness.presets import preset
from harness.records import suites
from harness.records.environment import own_code
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec, SuiteRef

RATERS = 200
PROMPTS = 12
THINK_SECONDS = (2.0, 6.0)  # per comparison: several times quicker than people are
ARRIVE_SECONDS = 5.0  # within which all follow their links
P95_SECONDS = 0.1
SERVE = [sys.executable, "-m", "harness.cli", "study", "serve"]


@dataclass
class Load:
    """What one crowd of raters saw; seconds per request."""

    seconds: list[float] = field(default_factory=list)
    answer_seconds: list[float] = field(default_factory=list)
    wall: float = 0.0
    sent: dict[tuple[str, int, str], str] = field(default_factory=dict)  # token, position, question → choice
    wrong: int = 0  # answers that are missing, changed or there without having been sent

    @property
    def p95(self) -> float:
        """What 95 % of the requests took at most, in seconds."""
        return float(np.quantile(self.seconds, 0.95))


def run(raters: int = RATERS, console: Console | None = None) -> bool:
    """Rate with and without pauses for thought, print figures beside their bars; whether the bars are met."""
    console = console or Console()
    with tempfile.TemporaryDirectory(prefix="study-") as folder:
        study = make_study(Path(folder))
        busy = os.getloadavg()[0]
        thinking = crowd(study, raters, THINK_SECONDS, ARRIVE_SECONDS)
        saturated = crowd(study, raters, (0.0, 0.0), 0.0)
    table = Table("", "with pauses", "bar", "without")
    both = (thinking, saturated)

    def within(seconds: list[float]) -> str:
        return f"{np.quantile(seconds, 0.95) * 1e3:.1f}"

    rows = {
        "requests": [f"{len(load.seconds)}" for load in both],
        "requests per second": [f"{len(load.seconds) / load.wall:.0f}" for load in both],
        "answers sent": [f"{len(load.sent)}" for load in both],
        "answers lost, changed or doubled": [f"{load.wrong}" for load in both],
        "median of a request, ms": [f"{np.median(load.seconds) * 1e3:.1f}" for load in both],
        "95 % of requests within, ms": [within(load.seconds) for load in both],
        "95 % of answers within, ms": [within(load.answer_seconds) for load in both],
        "slowest, ms": [f"{max(load.seconds) * 1e3:.0f}" for load in both],
    }
    bars = {
        "answers lost, changed or doubled": "0",
        "95 % of requests within, ms": f"{P95_SECONDS * 1e3:.0f}",
    }
    for name, (one, other) in rows.items():
        table.add_row(name, one, bars.get(name, ""), other)
    console.print(table)
    low, high = THINK_SECONDS
    console.print(
        f"{raters} raters at once, a comparison every {low:g}–{high:g} s each; {os.cpu_count()} cores shared "
        f"with the raters, load {busy:.1f} before"
    )
    return thinking.p95 < P95_SECONDS and thinking.wrong == saturated.wrong == 0


def make_study(folder: Path) -> Path:
    """A study of run folders that are made for it: real files, views of the usual size, no objects."""
    root, config = folder / "runs", preset("toy")
    prompts = [f"object number {index}" for index in range(PROMPTS)]
    suite = SuiteRef(name="bench", sha256="0" * 64, size=PROMPTS)
    suites.keep(root, suite.name, suite.sha256, prompts)
    chance = np.random.default_rng(0)
    for method in ("uniform_sds", "tp_sds"):
        for prompt in prompts:
            run = RunFolder.create(
                root, RunSpec(method=method, prompt=prompt, seed=0, config=config, suite=suite)
            )
            coarse = chance.integers(0, 255, (config.views.tiles, 16, 16, 3), dtype=np.uint8)
            run.save_views(config.steps, coarse.repeat(4, 1).repeat(4, 2))
            run.finish({"steps": config.steps})
    new_study(root, ["tp_sds", "uniform_sds"], folder / "study", questions=parse_questions([]))
    return folder / "study"


def crowd(study: Path, raters: int, think: tuple[float, float], arrive: float) -> Load:
    """Let new raters take the whole study at once, then compare what they sent with what is stored."""
    with Store(study / DATABASE) as store:
        tokens = add_raters(load_design(study), store, raters)
    server = subprocess.Popen(
        [*SERVE, str(study), "--port", "0"], stdout=subprocess.PIPE, text=True, env=os.environ | own_code()
    )
    try:
        assert server.stdout
        port = int(server.stdout.readline().strip(" \n/").rpartition(":")[2])
        load = Load()
        started = time.perf_counter()
        asyncio.run(_all(port, tokens, think, arrive, load))
        load.wall = time.perf_counter() - started
    finally:
        server.kill()
        server.wait()
    load.wrong = _wrong(study, tokens, load)
    return load


def _wrong(study: Path, tokens: list[str], load: Load) -> int:
    names = {token_hash(token): token for token in tokens}
    with Store(study / DATABASE) as store:
        sql = "SELECT token_sha256, position, question, choice FROM answers JOIN raters USING(rater)"
        rows = store.write(lambda db: db.execute(sql).fetchall()).result()
    kept = {(names[row[0]], row[1], row[2]): row[3] for row in rows if row[0] in names}
    return len(kept.items() ^ load.sent.items())


async def _all(port: int, tokens: list[str], think: tuple[float, float], arrive: float, load: Load) -> None:
    chance = random.Random(0)
    raters = [
        _rate(port, token, think, chance.uniform(0, arrive), random.Random(token), load) for token in tokens
    ]
    await asyncio.gather(*raters)


async def _rate(
    port: int, token: str, think: tuple[float, float], delay: float, chance: random.Random, load: Load
) -> None:
    """One rater, from the link to the thanks, over one connection that is kept."""
    await asyncio.sleep(delay)
    browser = _Browser(*await asyncio.open_connection("127.0.0.1", port), load)
    await browser.get(f"/r/{token}")
    page = await browser.get("/")
    for path in ("/study.css", "/study.js"):
        await browser.get(path)
    await browser.post("/consent", _hidden(page))
    page = await browser.get("/")
    for path in re.findall(r'<img src="([^"]+)"', page):
        await browser.get(path)
    while "/answer" in page:
        for path in re.search(r'data-following="([^"]*)"', page)[1].split():  # type: ignore[index]
            await browser.get(path)
        await asyncio.sleep(chance.uniform(*think))
        names = dict.fromkeys(re.findall(r'name="q\.(\w+)"', page))
        chosen = {name: chance.choice(CHOICES) for name in names}
        fields = _hidden(page)
        before = len(load.seconds)
        await browser.post("/answer", fields | {f"q.{name}": choice for name, choice in chosen.items()})
        load.answer_seconds += load.seconds[before : before + 1]
        load.sent.update({(token, int(fields["position"]), name): chosen[name] for name in chosen})
        page = await browser.get("/")
    browser.writer.close()


def _hidden(page: str) -> dict[str, str]:
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))


class _Browser:
    """As much of a browser as a rater needs; its own weight would be measured, so it has little."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, load: Load):
        self.reader, self.writer, self.load = reader, writer, load
        self.cookie = ""

    async def get(self, path: str) -> str:
        """The body of a page or of a picture."""
        return await self._ask(f"GET {path} HTTP/1.1\r\nHost: study\r\n{self.cookie}\r\n", b"200 ", b"303 ")

    async def post(self, path: str, fields: dict[str, str]) -> str:
        """Send a form, which must be answered by a redirect."""
        body = urlencode(fields)
        head = f"POST {path} HTTP/1.1\r\nHost: study\r\n{self.cookie}Content-Length: {len(body)}\r\n\r\n"
        return await self._ask(head + body, b"303 ")

    async def _ask(self, text: str, *wanted: bytes) -> str:
        started = time.perf_counter()
        self.writer.write(text.encode())
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        body = await self.reader.readexactly(int(length[1])) if length else b""
        self.load.seconds.append(time.perf_counter() - started)
        if not head.startswith(tuple(b"HTTP/1.1 " + status for status in wanted)):
            raise RuntimeError(f"{text.splitlines()[0]}: {head.splitlines()[0].decode()}")
        if cookie := re.search(rb"set-cookie: (rater=[^;]+)", head):
            self.cookie = f"Cookie: {cookie[1].decode()}\r\n"
        return body.decode("latin-1")
