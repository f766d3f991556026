"""Where a sweep stands: tables over run folders."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

from harness.config import Config, UserError, dotted
from harness.records import rows as naming
from harness.records.folder import RunFolder, run_folders
from harness.records.reader import RecordError
from harness.sweep.display import duration, number


@dataclass
class Row:
    """The runs of one row. `rate`: steps/s over its running runs; `seconds_left`: at the sweep's rate.

    Runs that wait are `queued` where a Slurm task in the queue has them, else `waiting` for the next sweep.
    Damaged runs are counted, and none of their steps.
    """

    method: str
    done: int = 0
    running: int = 0
    queued: int = 0
    waiting: int = 0
    failed: int = 0
    cancelled: int = 0
    damaged: int = 0
    steps: int = 0
    steps_total: int = 0
    steps_left: int = 0
    rate: float = 0.0
    seconds_left: float | None = None


STATES = ("done", "running", "queued", "waiting", "failed", "cancelled", "damaged")
UNREADABLE = "(unreadable)"  # the row of runs whose method is not known
OPTIONAL = ("queued", "cancelled", "damaged")  # columns that are left out where all is 0


@dataclass
class SweepStatus:
    """What `harness status` shows; `notes` are lines under the table."""

    root: str
    methods: list[Row]
    total: Row
    failures: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    damages: list[dict[str, str]] = field(default_factory=list)
    slurm: dict[str, Any] | None = None

    def as_json(self) -> str:
        """The same for programs."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    def view(self, note: str = "") -> Group:
        """The table, and the notes under it."""
        return Group(self.table(), *self.notes, *([note] if note else []))

    def table(self) -> Table:
        """The same for people."""
        table = Table(
            title=self.root, title_justify="left", box=None, padding=(0, 1, 0, 0), header_style="bold"
        )
        states = [name for name in STATES if name not in OPTIONAL or getattr(self.total, name)]
        table.add_column("method", overflow="fold")
        for column in (*states, "steps", "steps/s", "time left"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in [*self.methods, self.total]:
            left = "" if row.seconds_left is None else duration(row.seconds_left)
            table.add_row(
                row.method,
                *(str(getattr(row, name)) for name in states),
                f"{number(row.steps)}/{number(row.steps_total)}",
                f"{row.rate:.3g}" if row.rate else "",
                left,
                style="bold" if row is self.total else "",
            )
        return table


def sweep_status(
    root: Path, in_tasks: Collection[str] = (), only: Collection[str] | None = None
) -> SweepStatus:
    """The state of every run under `root`, or of `only` these, from its files; raises UserError where there
    are none.

    `in_tasks` are the runs that tasks in a queue have. Rows are named as they are among all runs.
    """
    rows: dict[str, Row] = {}
    total = Row("all")
    failures, damages = [], []
    folders = run_folders(root)
    if not folders:
        raise UserError(f"{root} holds no runs; `harness sweep PROMPTS --out {root}` makes some")
    looks = {folder.id: folder.look() for folder in folders}
    specs = {run: look.spec for run, look in looks.items() if look.spec}
    at = naming.places({run: naming.Made(spec.config, spec.own, spec.axes) for run, spec in specs.items()})
    labels = dict.fromkeys(looks, UNREADABLE)
    labels |= naming.names_of({run: spec.label for run, spec in specs.items()}, at)
    labels = naming.told_by_code(labels, {run: look.code for run, look in looks.items()})
    order = {
        labels[run]: naming.Row(labels[run], spec.label, at[run]).order("") for run, spec in specs.items()
    }
    for folder in folders:
        if only is not None and folder.id not in only:
            continue
        look, label = looks[folder.id], labels[folder.id]
        row = rows.setdefault(label, Row(label))
        try:
            if look.spec is None or look.status == "damaged":
                raise RecordError(look.damage or "spec.json: is missing")
            state = {} if look.status in ("done", "new") else folder.state()
            failure = (folder.failure() or {}) if look.status == "failed" else None
        except RecordError as error:  # the second only of what was replaced since the look
            damages.append({"run": folder.id, "damage": str(error)})
            row.damaged += 1
            total.damaged += 1
            continue
        status = look.status
        steps = look.spec.config.steps
        done = steps if status == "done" else min(state.get("step", 0), steps)
        kind = "waiting" if status in ("new", "resume") else status
        if kind == "waiting" and folder.id in in_tasks:
            kind = "queued"
        for r in (row, total):
            setattr(r, kind, getattr(r, kind) + 1)
            r.steps += done
            r.steps_total += steps
            if kind in ("running", "queued", "waiting"):
                r.steps_left += steps - done
            if kind == "running":
                r.rate += state.get("rate", 0.0)
        if failure is not None:
            failures.append({"run": folder.id, "step": failure.get("step"), "reason": failure.get("reason")})
    if total.rate:
        for row in (*rows.values(), total):
            row.seconds_left = row.steps_left / total.rate
    return SweepStatus(
        str(root),
        sorted(rows.values(), key=lambda row: order.get(row.method, (True, row.method, [], ""))),
        total,
        failures,
        damages=damages,
    )


def describe(folder: RunFolder) -> dict[str, Any]:
    """What `harness show` prints of a run."""
    look = folder.look()
    about: dict[str, Any] = {
        "run": folder.id,
        "folder": str(folder.path),
        "status": look.status,
        "damage": look.damage,
    }
    if spec := look.spec:
        about |= {
            "method": spec.label,
            "code": dict(look.code),
            "params": spec.params,
            "prompt": spec.prompt,
            "seed": spec.seed,
            "suite": spec.suite.model_dump() if spec.suite else None,
            "config": spec.config.model_dump(mode="json"),
        }
    about |= {"state": _readable(folder.state), "failure": _readable(folder.failure)}
    metrics, lost = _readable(folder.metrics_and_losses) or ([], 0)
    steps = folder.view_steps()
    return about | {
        "last_metrics": metrics[-1] if metrics else None,
        "lines_left_out": lost or None,
        "views": str(folder.views_path(steps[-1])) if steps else None,
    }


_FRAME = re.compile(r'^  File "(?P<file>.+)", line (?P<line>\d+), in (?P<name>.+)$', re.M)
TRACEBACK_LINES = 12


def blame(detail: str) -> list[tuple[str, str]]:
    """What a traceback says, at once: file and line of the last frame that is neither of this package nor of
    an installed one, or of the last one, and its end."""
    frames = list(_FRAME.finditer(detail))
    if not frames:
        return []
    package = f"{Path(__file__).parents[1]}{os.sep}"
    ours = ("-packages", package)
    own = [each for each in frames if not any(part in each["file"] for part in ours)]
    last = (own or frames)[-1]
    end = detail.rstrip().splitlines()[-TRACEBACK_LINES:]
    return [("at", f"{last['file']}:{last['line']} in {last['name']}"), ("traceback", "\n".join(end))]


def step_at(state: Mapping[str, Any] | None, failure: Mapping[str, Any] | None) -> int:
    """The step that a run stands at: of a failed one that which failed."""
    return (failure or {}).get("step", (state or {}).get("step", 0))


def reading(folder: RunFolder) -> list[tuple[str, str]]:
    """What `harness show` says of a run to people: names and texts, some of several lines."""
    about = describe(folder)
    state, failure, spec = about["state"] or {}, about["failure"] or {}, folder.look().spec
    step = step_at(state, failure)
    found = [("run", folder.id), ("folder", str(folder.path))]
    found.append(("status", about["status"] + (f" at step {step}" if step else "")))
    if about["damage"]:
        found.append(("damage", about["damage"]))
    if failure:
        found += [("reason", str(failure.get("reason"))), *blame(str(failure.get("detail") or ""))]
    if spec:
        code = ", ".join(f"{name} {version}" for name, version in about["code"].items())
        found += [("method", spec.label), ("code", code), ("prompt", spec.prompt), ("seed", str(spec.seed))]
        found += [("steps", str(spec.config.steps)), ("suite", spec.suite.name if spec.suite else "")]
        found.append(("params", "\n".join(f"{k} = {_text(v)}" for k, v in spec.settings.items())))
        default, config = dotted(Config()), dotted(spec.config)
        changed = [f"{k} = {_text(v)}" for k, v in config.items() if v != default.get(k) and k != "steps"]
        found.append(("settings", "\n".join(changed) or "all at their defaults"))
    if last := about["last_metrics"]:
        found.append(("last metrics", "\n".join(f"{k} = {_text(v)}" for k, v in last.items())))
    return [(name, text) for name, text in [*found, ("views", about["views"] or "")] if text]


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _readable(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except RecordError:
        return None
