"""`harness eval` and `harness tables`: run folders → tables, a contact sheet and a manifest."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from eval.figures.contact_sheet import Cell, contact_sheets, shown_views, texts
from eval.figures.fonts import boxes, fallbacks
from eval.metric import RunMetric
from eval.runs import Runs
from eval.sources.load import RunRecord
from eval.tables.made import make_tables
from eval.tables.notes import all_notes
from eval.tables.table import Table, as_csv, console_for_tables, markdown, tell, terminal
from harness.console import Console, busy
from harness.records.environment import packages
from harness.records.files import make_folder, write_bytes, write_cache, write_json
from harness.records.reader import names
from harness.records.schema import VALUES
from harness.records.stamp import TOY

_SHEET = re.compile(r"contact_sheet(-\d{2,})?\.png")


def open_runs(root: Path, **options: Any) -> Runs:
    """The runs of a folder (options as `Runs`'); what is computed of them is told on a terminal."""

    def told(items: Sequence[RunRecord], text: str) -> Iterable[RunRecord]:
        with busy(text) as more:
            for done, item in enumerate(items):
                more(f"{done}/{len(items)}")
                yield item

    with busy("reading runs and loading the scorer"):
        return Runs(root, track=told, **options)


def evaluate(runs: Runs, out: Path | None = None, console: Console | None = None) -> list[Table]:
    """Prints R-Precision and writes it to `out` (default `<runs>/eval`) with contact sheet and manifest.

    `out` gets table.md, table.csv, contact_sheet.png (further pages -02, …) and manifest.json.
    """
    console = console or console_for_tables()
    tables, _ = make_tables(runs, ["r_precision", "r_precision_steps"])
    with busy("notes on the runs"):
        notes = all_notes(runs)
    folder = out or runs.root / "eval"
    make_folder(folder)
    write_bytes(folder / "table.md", markdown(tables, runs.stamp, "CLIP R-Precision", notes).encode())
    write_bytes(folder / "table.csv", as_csv(tables[0], runs.stamp).encode())
    with busy("contact sheet"):
        missing = _write_sheets(folder, runs)
    write_json(folder / "manifest.json", manifest(runs))
    keep_values(runs)
    for table in tables:
        console.print(terminal(table, runs.stamp, console.width))
    for note in [*notes, *([boxes(missing)] if missing else [])]:
        console.print(note, soft_wrap=True)
    console.print(
        f"written to {folder}/: table.md, table.csv, contact_sheet.png, manifest.json", soft_wrap=True
    )
    return tables


def write_tables(
    runs: Runs, names: Sequence[str] = (), out: Path | None = None, console: Console | None = None
) -> list[Table]:
    """Prints the tables asked for, or all that these runs allow, and writes each as md, csv and tex.

    `out` (default `<runs>/eval/tables`) also gets tables.md, all of them on one page, and manifest.json.
    """
    console = console or console_for_tables()
    tables, left_out = make_tables(runs, names)
    with busy("notes on the runs"):
        notes = [*all_notes(runs), *left_out]
    folder = out or runs.root / "eval" / "tables"
    make_folder(folder)
    tell(tables, runs.stamp, console, folder)
    write_bytes(folder / "tables.md", markdown(tables, runs.stamp, "Results", notes).encode())
    write_json(folder / "manifest.json", manifest(runs))
    keep_values(runs)
    for note in notes:
        console.print(note, soft_wrap=True)
    console.print(f"written to {folder}/: {', '.join(table.name for table in tables)}", soft_wrap=True)
    return tables


def manifest(runs: Runs) -> dict[str, Any]:
    """What the numbers were made from: metric versions, scorer, pools, prior, settings, runs, packages."""
    stamp = runs.stamp
    return {
        "metrics": dict(stamp.versions),
        "clip": {"tag": stamp.clip, "sha256": stamp.weights},
        "pools": list(stamp.pools),
        "priors": list(stamp.priors),
        "streams": stamp.streams,
        "toy": stamp.mark == TOY,
        "stamp": stamp.mark,
        "configs": sorted({run.config_hash for run in runs}),
        "runs": {run.run_id: run.status for run in runs},
        "packages": packages(),
    }


def keep_values(runs: Runs) -> None:
    """Write `<run>/eval/values.json`: metric → version, scorer and the columns of the run's last step.

    Metrics that were computed replace their earlier values; the others' stay.
    """
    found: dict[str, dict[str, dict[str, float | int | str]]] = {}
    for metric in runs.computed:
        if not isinstance(metric, RunMetric):
            continue
        keys = [column.key for column in metric.columns]
        for row in metric.frame.to_dict("records"):
            values = {key: float(f"{row[key]:.6g}") for key in keys if math.isfinite(row[key])}
            about = {"version": metric.version, "scorer": runs.stamp.clip}
            found.setdefault(str(row["run"]), {})[metric.name] = about | values
    for run in runs:
        kept = run.folder.json(VALUES)
        values = (kept if isinstance(kept, dict) else {}) | found.get(run.run_id, {})
        if values != kept:
            write_cache(run.path / VALUES, json.dumps(values, indent=1, sort_keys=True).encode())


def _write_sheets(folder: Path, runs: Runs) -> str:
    """Write the sheets; the characters that no font has."""
    total = max(runs.totals)
    shown = sorted((run for run in runs if run.total == total), key=lambda run: run.seed)
    cells: dict[str, dict[str, Cell]] = {}
    for prompt in runs.prompts:
        row: dict[str, Cell] = {"ground truth": [runs.truth[prompt]]} if prompt in runs.truth else {}
        for method in runs.methods:
            own = [run for run in shown if (run.prompt, runs.labels[run.run_id]) == (prompt, method)]
            row[method] = [run.shown(total) for run in own]
        cells[prompt] = row
    seeds = ", ".join(map(str, runs.seeds))
    azimuths = min(run.config.views.azimuths for run in runs)
    angles = ", ".join(f"{360 * k / azimuths:.0f}°" for k in shown_views(azimuths))
    priors = ", ".join(runs.stamp.priors)
    title = f"prior {priors} · step {total} · azimuths {angles} · one line per seed ({seeds})"
    title = f"{runs.stamp.mark.upper()} · {title}" if runs.stamp.mark else title
    for old in names(folder):
        if _SHEET.fullmatch(old):
            (folder / old).unlink()
    for number, page in enumerate(contact_sheets(title, cells, azimuths), start=1):
        data = io.BytesIO()
        page.save(data, "PNG", optimize=True)
        name = "contact_sheet.png" if number == 1 else f"contact_sheet-{number:02d}.png"
        write_bytes(folder / name, data.getvalue())
    return fallbacks(texts(title, cells))[1]
