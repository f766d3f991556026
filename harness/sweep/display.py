"""One live progress display for a whole sweep; plain lines where the output is no terminal."""

from __future__ import annotations

import sys
import time
from collections import deque
from itertools import pairwise
from statistics import median

from rich.progress import BarColumn, Progress, TextColumn

from harness.console import Console

PLAIN_SECONDS = 10.0
WINDOW_SECONDS = 60.0
ONCE = 3.0  # a step that takes so many times the usual one did what is done once, such as to compile


def duration(seconds: float) -> str:
    """`45 s`, `3:07` or `1:02:03`; no time that is left is 0 s."""
    whole = max(round(seconds), 1) if seconds > 0 else 0
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def number(value: float) -> str:
    """A count with thin groups of three: `12 400`."""
    return f"{value:,.0f}".replace(",", " ")


def speed(rate: float) -> str:
    """Steps per second: `12 400`, `29` or `0.31`."""
    return number(rate) if rate >= 100 else f"{rate:.2g}"


class Display:
    """Shows steps and runs done, the rate in steps/s over the last minute, and the time left.

    `work` is all steps, each weighted by what it costs; the time left goes by it.
    """

    def __init__(self, runs: int, steps: int, console: Console | None = None, work: float = 0.0):
        self.console = console or Console(file=sys.stdout)
        self.runs, self.steps = runs, steps
        self.work = work or float(steps)
        self.runs_done = self.steps_done = 0
        self.note = ""
        self.work_done = 0.0
        self._recent: deque[tuple[float, int, float]] = deque()  # from the first step on
        self._is_warm = False
        self._last_line = time.monotonic()
        self._progress: Progress | None = None
        if self.console.is_terminal:
            columns = [
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TextColumn("{task.fields[text]}", markup=False),
            ]
            self._progress = Progress(*columns, console=self.console, transient=True)
            self._task = self._progress.add_task("sweep", total=max(steps, 1), text="starting")
            self._progress.start()

    def _seen(self) -> tuple[float, int, float]:
        """The seconds, steps and work of the last minute; in the first one without the slowest step, where
        that did what is done once."""
        gaps = [
            (now - begin, after - before, did - had)
            for (begin, before, had), (now, after, did) in pairwise(self._recent)
        ]
        if len(gaps) > 2 and not self._is_warm:
            slowest = max(gaps)
            if slowest[0] > ONCE * median(seconds for seconds, _, _ in gaps):
                gaps.remove(slowest)
        return sum(gap[0] for gap in gaps), sum(gap[1] for gap in gaps), sum(gap[2] for gap in gaps)

    @property
    def rate(self) -> float:
        """Steps per second, summed over the runs of all packs."""
        seconds, steps, _ = self._seen()
        return steps / seconds if seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At the pace of the last minute; None before the second step."""
        seconds, _, work = self._seen()
        return seconds * max(self.work - self.work_done, 0) / work if work > 0 else None

    def text(self) -> str:
        """What stands beside the bar."""
        parts = [
            f"{self.runs_done}/{self.runs} runs",
            f"{number(self.steps_done)}/{number(self.steps)} steps",
        ]
        if self.rate:
            parts.append(f"{speed(self.rate)} steps/s")
            if self.seconds_left is not None:
                parts.append(f"{duration(self.seconds_left)} left")
        if not self._recent:
            parts.append("loading the prior")
        return " · ".join([*parts, self.note] if self.note else parts)

    def begin(self) -> None:
        """Another process takes steps from now on: the pace without it is no longer theirs."""
        self._recent.clear()

    def advance(self, steps: int, work: float | None = None) -> None:
        """Count steps, and what they cost."""
        self.steps_done += steps
        self.work_done += steps if work is None else work
        now = time.monotonic()
        self._recent.append((now, self.steps_done, self.work_done))
        while self._recent[0][0] < now - WINDOW_SECONDS and len(self._recent) > 2:
            self._recent.popleft()
            self._is_warm = True
        self.refresh()

    def refresh(self) -> None:
        """Redraw, or print a line when one is due."""
        if self._progress:
            self._progress.update(self._task, completed=self.steps_done, text=self.text())
        elif time.monotonic() - self._last_line >= PLAIN_SECONDS:
            self._last_line = time.monotonic()
            share = 100 * self.steps_done / self.steps if self.steps else 100
            self.say(f"{share:3.0f} %  {self.text()}")

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self.console.print(line, soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._progress:
            self._progress.stop()
