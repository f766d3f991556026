"""What a metric is.

A metric is a file `eval/metrics/NAME.py`, or of a `--metrics-dir`, with exactly one subclass of `RunMetric`
or `PromptMetric`. The first line of its docstring is its definition, which listings and docs/protocol.md
show; nothing else names the file. Tables (`harness tables RUNS NAME`), the report, W&B's summary and the
stamps follow from the class.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd

from eval.metrics import SEAM
from eval.tables.rows import distinct, mean, span
from eval.tables.table import Cell, Number, Table, number, percent
from harness.config import UserError, first_line
from harness.records.files import write_cache

if TYPE_CHECKING:
    from eval.runs import Runs
    from eval.scorers.preference import Weights
    from eval.sources.load import RunRecord

Values = Mapping[str, float]


@dataclass(frozen=True)
class Column:
    """One number of a metric: its key in frames, its head in tables, and how it is read.

    A number of unit "%" is a share, 0…1 in frames, and has the interval of one. `better`: higher, lower, or
    "" where neither is.
    """

    key: str
    head: str
    unit: str = ""
    better: Literal["higher", "lower", ""] = ""
    digits: int = 2

    def cell(self, frame: pd.DataFrame) -> Number:
        """The mean over a frame's prompts with its interval."""
        share = self.unit == "%"
        interval = mean(frame, self.key, share)
        return percent(interval) if share else number(interval, self.digits)


@dataclass(frozen=True)
class Need:
    """What a metric cannot do without.

    `lacks` says why these runs have none of it, and `lacks_of` why a run has not; "" where it is there. `key`
    is what tells one state of it from another: a kept value counts for that one only.
    """

    name: str
    lacks: Callable[[Runs], str] = lambda runs: ""
    lacks_of: Callable[[Runs, RunRecord], str] = lambda runs, run: ""
    told: bool = False  # that a run has none is told with R-Precision already
    key: Callable[[Runs, RunRecord], str] = lambda runs, run: ""
    weights: Weights | None = None


def _unread(runs: Runs, run: RunRecord) -> str:
    try:
        run.views(run.total)
    except Exception as error:  # whatever a damaged picture makes the decoder raise
        return f"views of step {run.total}: {first_line(error)}"
    return ""


def _digest(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


VIEWS = Need(
    "views", told=True, lacks_of=_unread, key=lambda runs, run: _digest(run.folder.view_bytes(run.total))
)
FEATURES = Need(
    "image features of the scorer",
    told=True,
    lacks_of=lambda runs, run: (
        "" if runs.last_features(run) is not None else f"views of step {run.total} cannot be read"
    ),
    key=lambda runs, run: f"{runs.clip.weights_hash} {VIEWS.key(runs, run)}",
)
RING = Need(
    "a ring of three views or more",
    lacks_of=lambda runs, run: "" if run.config.views.azimuths > 2 else "its views are no ring",
)
PARAMETERS = Need(
    "parameters of the last step",
    key=lambda runs, run: _digest(json.dumps(run.folder.result(), sort_keys=True).encode()),
)
GROUND_TRUTH = Need(
    "ground truth",
    lacks=lambda runs: "" if runs.truth else "the prompts have no ground truth; the toy world's have",
    lacks_of=lambda runs, run: "" if run.prompt in runs.truth else "its prompt has no ground truth",
    key=lambda runs, run: _digest(runs.truth[run.prompt].tobytes()),
)
SOLIDS = Need(
    "the captions' solids",
    lacks=lambda runs: "" if runs.solids else "the prompts have no solids; the toy world's have",
)
PRIOR_SAMPLES = Need(
    "samples of the prior",
    lacks=lambda runs: "" if runs.prior_samples else "there are no samples of the prior: --prior-samples 4",
    lacks_of=lambda runs, run: "" if run.prompt in runs.prior_samples else "the prior has no sample of it",
    key=lambda runs, run: _digest(runs.prior_samples[run.prompt].tobytes()),
)
SEEDS = Need("two seeds of a prompt")  # which `PromptMetric.fewest` asks for


def why_missing(weights: Weights) -> str:
    """Why weights are not here, and what fetches them; "" where they are."""
    try:
        weights.find()
    except (UserError, ImportError) as error:
        return f"{first_line(error)}; fetch them: harness doctor --fetch --metrics {weights.name}"
    return ""


def pinned(weights: Weights) -> Need:
    """Weights that few machines have, which `harness doctor` looks for and fetches."""
    return Need(
        f"weights of {weights.repo}",
        lambda runs: why_missing(weights),
        key=lambda runs, run: weights.find().sha256,
        weights=weights,
    )


@dataclass(frozen=True)
class Reference:
    """A row beside the methods': a floor, a ceiling, or a control, which stands `first`."""

    label: str
    cells: Sequence[Cell]  # one per head of the metric
    prompts: Cell = "–"
    first: bool = False


class Metric:
    """A metric over some runs; whatever it computes is computed once.

    `columns`: its numbers. `table`: the table that it stands in, its own by default, where its columns are
    put beside those of others. `title`, or `caption` in full: the heading of its own table; `remarks` stand
    under it. `shown`: (column, name) of those in the report, all by their heads by default. `lacking`: what
    is said where it has no value at all. `on_request`: it is slow, or its weights are seldom there, and it is
    made where it is named and not with all tables.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1  # raise it when a number can change: kept values and stamps name it
    title: ClassVar[str] = ""
    caption: ClassVar[str] = ""
    columns: ClassVar[Sequence[Column]] = ()
    needs: ClassVar[Sequence[Need]] = (VIEWS,)
    table: ClassVar[str] = ""
    remarks: ClassVar[Sequence[str]] = ()
    shown: ClassVar[Sequence[tuple[str, str]] | None] = None
    lacking: ClassVar[str] = ""
    on_request: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        """Its name is its file's."""
        cls.name = cls.__module__.rpartition(".")[2].removeprefix("harness_metric_")

    def __init__(self, runs: Runs):
        self.runs = runs

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per run, or per prompt: method, total, prompt, seed and the columns; UserError where there
        is none."""
        raise NotImplementedError

    @cached_property
    def ceiling(self) -> pd.DataFrame:
        """The same of what is as good as can be: prompt and the columns; empty where there is nothing."""
        return pd.DataFrame()

    @property
    def heads(self) -> list[str]:
        """The heads of its columns in tables."""
        return [column.head for column in self.columns]

    def cells(self, part: pd.DataFrame) -> list[Cell]:
        """A row of a table: means over rows of `frame`, one cell per head."""
        return [column.cell(part) for column in self.columns]

    def references(self) -> Sequence[Reference]:
        """Rows of floors, ceilings and controls."""
        return ()

    def reference(self, label: str, frame: pd.DataFrame) -> list[Reference]:
        """The row of a frame of prompt, seed and some of the columns; none where it is empty."""
        if frame.empty:
            return []
        cells = [column.cell(frame) if column.key in frame else "–" for column in self.columns]
        return [Reference(label, cells, distinct(frame, "prompt"))]

    def counts(self, part: pd.DataFrame) -> dict[str, Cell]:
        """How much stands behind a row, by head."""
        return {"prompts": distinct(part, "prompt")}

    def notes(self) -> Sequence[str]:
        """Lines under its table."""
        return self.remarks

    def own_table(self) -> Table | None:
        """Its table where that is not a row of means per method and N; None for those."""
        return None

    def beside(self) -> list[Metric]:
        """The others that stand in its table and have a value; why one has none is noted."""
        found = []
        for kind in self.runs.metrics.values():
            if kind.table == self.name:
                other = self.runs.of(kind)
                try:
                    found += [other] if len(other.frame) else []
                except UserError as error:
                    self.runs.note(f"no {other.name} in {self.name}: {error}")
        return found

    def check(self) -> None:
        """UserError where the runs lack what it needs."""
        for need in self.needs:
            if why := need.lacks(self.runs):
                raise UserError(self.lacking or f"{self.name} needs {need.name}: {why}")

    def _nothing(self, why: str) -> UserError:
        return UserError(self.lacking or f"{self.name} has no value of any run: {why}")


class RunMetric(Metric):
    """A metric of each run by itself.

    `miss`: what a run scores that failed or lacks what is needed; None leaves such runs out. `slow`: values
    are kept in the run folder, by version and by what they rest on.
    """

    miss: ClassVar[Values | None] = None
    slow: ClassVar[bool] = False

    def of_run(self, run: RunRecord) -> Values | None:
        """Column → value of a finished run at its last step; None where the metric is not for its kind of
        scene, UserError where it cannot be told."""
        raise NotImplementedError

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per run: run, method, prompt, seed, total, problem and the columns."""
        self.check()
        rows, found, why = [], 0, "none has ended well"
        for run in self.runs.track(self.runs, self.name):
            values, problem, told = self._value(run)
            found += values is not None
            why = why if told else problem or why
            if problem and self.miss is None and not told:
                self.runs.note(f"left out of {self.name}: {run.run_id}: {problem}")
            if values is None and problem:
                values = self.miss
            if values is not None:
                rows.append(self.runs.about(run) | {"problem": problem} | dict(values))
        if not found:
            raise self._nothing(why)
        return pd.DataFrame(rows)

    def _value(self, run: RunRecord) -> tuple[Values | None, str | None, bool]:
        """A run's value; why it has none, and whether that is told elsewhere."""
        if run.failure:
            return None, run.failure, True
        for need in self.needs:
            if why := need.lacks_of(self.runs, run):
                return None, why, need.told
        try:
            return (self._kept(run) if self.slow else self.of_run(run)), None, False
        except UserError as error:
            return None, first_line(error), False

    def _kept(self, run: RunRecord) -> Values | None:
        name = f"{run.folder.eval.name}/{self.name}-v{self.version}.json"
        keys = {need.name: need.key(self.runs, run) for need in self.needs}
        kept = run.folder.json(name)
        if isinstance(kept, dict) and kept.get("of") == keys and isinstance(kept.get("values"), dict):
            return {key: math.nan if value is None else value for key, value in kept["values"].items()}
        values = self.of_run(run)
        if values is not None:
            plain = {key: None if math.isnan(value) else float(value) for key, value in values.items()}
            write_cache(run.path / name, json.dumps({"of": keys, "values": plain}).encode())
        return values

    def of_truth(self, value: Callable[[str, np.ndarray], Values]) -> list[Reference]:
        """The row of ground truth, where there is any: `value` of each prompt and its ring of views."""
        ring = self.runs[0].config.views.azimuths
        rows = [
            {"prompt": prompt, "seed": 0} | dict(value(prompt, images[:ring]))
            for prompt, images in self.runs.truth.items()
        ]
        return self.reference("ground truth (ceiling)", pd.DataFrame(rows))

    def counts(self, part: pd.DataFrame) -> dict[str, Cell]:
        """n prompts, n seeds, n failed, which count as misses or are left out."""
        failed = sum(isinstance(why, str) for why in part["problem"]) if "problem" in part else 0
        return {"prompts": distinct(part, "prompt"), "seeds": distinct(part, "seed"), "failed": failed}


class PromptMetric(Metric):
    """A metric of a prompt's seeds together, `fewest` of them at least."""

    fewest: ClassVar[int] = 2

    def of_seeds(self, runs: Sequence[RunRecord]) -> Values | None:
        """Column → value of finished runs of one method, N and prompt, by rising run id."""
        raise NotImplementedError

    @cached_property
    def groups(self) -> dict[tuple[str, int, str], list[RunRecord]]:
        """(method, N, prompt) → its finished runs that have what is needed."""
        found: dict[tuple[str, int, str], list[RunRecord]] = {}
        for run in self.runs:
            if not run.failure and not any(need.lacks_of(self.runs, run) for need in self.needs):
                found.setdefault((self.runs.labels[run.run_id], run.total, run.prompt), []).append(run)
        return {key: own for key, own in sorted(found.items()) if len(own) >= self.fewest}

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per method, N and prompt: method, total, prompt, seed (0), n_seeds and the columns."""
        self.check()
        rows = []
        for (method, total, prompt), own in self.groups.items():
            values = self.of_seeds(own)
            if values is not None:
                about = {"method": method, "total": total, "prompt": prompt, "seed": 0}
                rows.append(about | {"n_seeds": len({run.seed for run in own})} | dict(values))
        if not rows:
            raise self._nothing(f"no prompt has {self.fewest} finished seeds")
        return pd.DataFrame(rows)

    def counts(self, part: pd.DataFrame) -> dict[str, Cell]:
        """n prompts, and how many seeds each has."""
        return {"prompts": distinct(part, "prompt"), "seeds": span(set(part["n_seeds"]))}


def known(dirs: Sequence[Path] = ()) -> Iterator[type[Metric]]:
    """Every metric there is, by name; UserError for a file that holds none."""
    for name in sorted(SEAM.discover(dirs)):
        found = SEAM.load(name, Metric, dirs)
        found.name = name
        yield found


def definitions(dirs: Sequence[Path] = ()) -> str:
    """The metrics as a Markdown table: docs/protocol.md holds it. `*`: on request."""
    lines = ["| metric | definition | numbers | needs |", "|---|---|---|---|"]
    arrows = {"higher": " ↑", "lower": " ↓", "": ""}
    found = SEAM.discover(dirs)
    for metric in known(dirs):
        numbers = "; ".join(f"{column.head}{arrows[column.better]}" for column in metric.columns)
        needs = ", ".join(need.name for need in metric.needs)
        name = f"`{metric.name}` v{metric.version}{'*' * metric.on_request}"
        lines.append(f"| {name} | {found[metric.name].summary} | {numbers} | {needs} |")
    return "\n".join(lines) + "\n"
