"""What the pages know of runs without scoring them: the list of all, and each one's own record. No torch."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.report.command import sweep_command
from eval.report.pictures import Made, meshed
from eval.sources.load import DAMAGED, RunRecord, in_order, rows_of
from harness.config import UserError
from harness.records import suites
from harness.records.identity import RunSpec, slug

ROWS = 400  # of metrics.jsonl on a run's page, evenly spaced
LOG_LINES = 200  # of log.txt, the last
UNFINISHED = {"new": "waiting", "resume": "waiting"}  # as `harness status` names them


def key(run_id: str) -> str:
    """A run's name in addresses and file names: its id, or a hash of one that is not safe there."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", run_id):
        return run_id
    return "run-" + hashlib.sha256(run_id.encode()).hexdigest()[:16]


class Suites:
    """The suites kept beside runs, under the file names that the report gives them."""

    def __init__(self, root: Path, runs: Sequence[RunRecord]):
        self.prompts: dict[str, list[str]] = {}
        self.files: dict[str, str] = {}
        self.names: dict[str, str] = {}
        for sha in sorted({run.suite for run in runs if run.suite}):
            try:
                kept = suites.read(root, sha)
            except UserError:
                self.names[sha] = sha[:12]
                continue
            self.names[sha], self.prompts[sha] = kept["name"], kept["prompts"]
            name = slug(kept["name"])
            taken = f"suites/{name}.txt" in self.files.values()
            self.files[sha] = f"suites/{name}-{sha[:12]}.txt" if taken else f"suites/{name}.txt"

    def name(self, run: RunRecord) -> str:
        """The suite's name; "" for a run without one."""
        return self.names[run.suite] if run.suite else ""

    def command(self, run: RunRecord, spec: RunSpec) -> str:
        """The line that makes the run again, from the folder that holds `files`."""
        prompts = self.prompts.get(run.suite or "", [])
        position = prompts.index(run.prompt) + 1 if run.prompt in prompts else None
        path = self.files.get(run.suite or "", "prompts.txt")
        return sweep_command(spec, path, position)

    def order(self, prompts: Sequence[str]) -> list[str]:
        """Prompts in the order of their suites, then the others by name."""
        by_name = sorted(self.prompts, key=lambda sha: self.names[sha])
        known = [prompt for sha in by_name for prompt in self.prompts[sha]]
        here = set(prompts)
        return list(dict.fromkeys([*(p for p in known if p in here), *sorted(here)]))


def index(
    name: str,
    runs: Sequence[RunRecord],
    suites: Suites,
    made: Mapping[str, Made],
    damaged: Sequence[str] = (),
) -> dict[str, Any]:
    """All runs, prompts and methods of a folder, for `data/runs.js`; `made` is by run id, `damaged` has a
    line for each run that cannot be used."""
    rows = rows_of(runs)
    labels, methods = {run_id: row.name for run_id, row in rows.items()}, in_order(rows.values())
    prompts = suites.order([run.prompt for run in runs])
    totals = sorted({run.total for run in runs})
    suite_names = sorted({suites.name(run) for run in runs})
    place = {
        "method": {label: k for k, label in enumerate(methods)},
        "prompt": {prompt: k for k, prompt in enumerate(prompts)},
        "suite": {suite: k for k, suite in enumerate(suite_names)},
    }
    entries = [
        {
            "id": run.run_id,
            "key": key(run.run_id),
            "method": place["method"][labels[run.run_id]],
            "prompt": place["prompt"][run.prompt],
            "suite": place["suite"][suites.name(run)],
            "seed": run.seed,
            "total": run.total,
            **standing(run, made.get(run.run_id)),
        }
        for run in runs
    ]
    return {
        "name": name,
        "mark": ", ".join(sorted({run.mark for run in runs if run.mark})),
        "priors": sorted({run.prior for run in runs}),
        "methods": [{"name": label} | look for label, look in zip(methods, _looks(methods), strict=True)],
        "prompts": prompts,
        "suites": suite_names,
        "totals": totals,
        "damaged": list(damaged),
        "runs": sorted(entries, key=lambda e: (e["prompt"], e["method"], e["total"], e["seed"])),
    }


def standing(run: RunRecord, made: Made | None = None) -> dict[str, Any]:
    """What changes of a run while it is worked on; without `made`, its pictures are made when asked for."""
    state = {} if run.status in ("new", DAMAGED) else run.folder.state()
    step = run.total if run.status == "done" else min(int(state.get("step", 0)), run.total)
    found: dict[str, Any] = {"status": UNFINISHED.get(run.status, run.status), "step": step}
    if run.failure:
        found["failure"] = run.failure
    if run.status == "running":
        found["rate"] = float(state.get("rate", 0.0))
    steps = list(run.view_steps) if made is None else made.steps
    turns = run.config.views.azimuths > 1
    shown = {"thumb": bool(steps), "turn": bool(steps) and turns}
    if made is not None:
        shown = {"thumb": made.thumb, "turn": bool(made.turn)}
    return found | {"views": steps[-1] if steps else 0} | {name: 1 for name, there in shown.items() if there}


def record(run: RunRecord, suites: Suites, made: Made | None) -> dict[str, Any]:
    """All that a run's own page shows beside its scores; RecordError where it was damaged a moment ago."""
    spec = run.folder.spec()
    usable = run.status != DAMAGED
    rows = run.folder.metrics() if usable else []
    ranks = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), ROWS)).round().astype(int)) if rows else []
    kept = [rows[rank] for rank in ranks]
    names = [
        name for name in dict.fromkeys(name for row in rows for name in row) if name not in ("step", "time")
    ]
    views = run.config.views
    cameras = [[round(360 * k / views.azimuths, 1), views.elevation] for k in range(views.azimuths)]
    if views.heldout_elevation is not None:
        cameras.append([0.0, views.heldout_elevation])
    env = (run.folder.env() if usable else None) or {}
    return {
        "id": run.run_id,
        "path": str(run.path),
        "suite": suites.name(run),
        "suite_file": suites.files.get(run.suite or "", ""),
        "command": suites.command(run, spec),
        "steps": list(run.view_steps) if made is None else made.steps,
        "cameras": cameras,
        "turn": "ring" if made is None else made.turn,
        "mesh": usable and meshed(run) is not None if made is None else made.mesh,
        "spec": spec.model_dump(mode="json"),
        "env": {name: env[name] for name in ("device", "encoder", "compiled", "host") if name in env}
        | ({"prior": f"{run.prior} {run.prior_hash[:12]}"} if run.prior_hash else {}),
        "state": run.folder.state() if usable else {},
        "failure": run.folder.failure() if run.status == "failed" else None,
        "log": "\n".join(run.folder.log_lines(LOG_LINES)),
        "rows": len(rows),
        "metrics": {
            "step": [row.get("step") for row in kept],
            "time": [row.get("time") for row in kept],
            "values": {name: [_short(row.get(name)) for row in kept] for name in names},
        },
    }


def script(name: str, value: Any) -> bytes:
    """JSON as a script that leaves it in `data[name]`: pages opened from a disk may load nothing else."""
    text = json.dumps(finite(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return f"data[{json.dumps(name)}]={text};\n".encode()


def finite(value: Any) -> Any:
    """The same with None for what JSON cannot say."""
    if isinstance(value, dict):
        return {str(name): finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value if isinstance(value, int) else None


def _looks(labels: Sequence[str]) -> list[dict[str, Any]]:
    """Colour, marker and dashes of every method, those of the figures."""
    from eval.figures.looks import looks

    found = looks(labels)
    return [
        {
            "colour": "" if found[label].colour == "#000000" else found[label].colour,  # "": the text's own
            "marker": found[label].marker,
            "dash": [] if found[label].line == "-" else list(found[label].line[1]),
        }
        for label in labels
    ]
