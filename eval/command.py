"""`harness eval` and `harness tables`: run folders → tables, a contact sheet and a manifest."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from eval.figures.contact_sheet import Cell, contact_sheets, shown_views, texts
from eval.figures.fonts import boxes, fallbacks
from eval.results import (
    convergence_table,
    cost_table,
    differences,
    diversity_table,
    own_n_table,
    power,
    r_precision,
    r_precision_steps,
    shapes_table,
    signatures_table,
    spectrum_table,
)
from eval.runs import Study
from eval.sources.load import RunRecord
from eval.tables.claims import claims, published
from eval.tables.table import Table, as_csv, console_for_tables, markdown, terminal, write
from harness.config import UserError, first_line, nearest
from harness.console import Console
from harness.records.environment import packages
from harness.records.files import make_folder, write_bytes, write_json
from harness.records.reader import names
from harness.records.stamp import TOY

_SHEET = re.compile(r"contact_sheet(-\d{2,})?\.png")

TABLES: Mapping[str, Callable[[Study], Table]] = {
    "r_precision": r_precision,
    "r_precision_steps": r_precision_steps,
    "differences": differences,
    "convergence": convergence_table,
    "own_n": own_n_table,
    "cost": cost_table,
    "diversity": diversity_table,
    "shapes": shapes_table,
    "signatures": signatures_table,
    "spectrum": spectrum_table,
    "claims": claims,
    "published": published,
}


def open_study(runs: Path, console: Console | None = None, **options: Any) -> Study:
    """The study of a folder of runs (options as `Study`'s), with a progress bar on a terminal."""

    def bar(items: Sequence[RunRecord], text: str) -> Iterable[RunRecord]:
        shown = console is not None and console.is_terminal
        return track(items, text, console=Console(stderr=True), transient=True, disable=not shown)

    return Study(runs, track=bar, **options)


def evaluate(study: Study, out: Path | None = None, console: Console | None = None) -> list[Table]:
    """Prints R-Precision and writes it to `out` (default `<runs>/eval`) with contact sheet and manifest.

    `out` gets table.md, table.csv, contact_sheet.png (further pages -02, …) and manifest.json.
    """
    console = console or console_for_tables()
    tables = [r_precision(study), r_precision_steps(study)]
    notes = all_notes(study)
    folder = out or study.root / "eval"
    make_folder(folder)
    write_bytes(folder / "table.md", markdown(tables, study.stamp, "CLIP R-Precision", notes).encode())
    write_bytes(folder / "table.csv", as_csv(tables[0], study.stamp).encode())
    missing = _write_sheets(folder, study)
    write_json(folder / "manifest.json", manifest(study))
    for table in tables:
        console.print(terminal(table, study.stamp))
    for note in [*notes, *([boxes(missing)] if missing else [])]:
        console.print(note, soft_wrap=True)
    console.print(
        f"written to {folder}/: table.md, table.csv, contact_sheet.png, manifest.json", soft_wrap=True
    )
    return tables


def write_tables(
    study: Study, names: Sequence[str] = (), out: Path | None = None, console: Console | None = None
) -> list[Table]:
    """Prints the tables asked for, or all that these runs allow, and writes each as md, csv and tex.

    `out` (default `<runs>/eval/tables`) also gets tables.md, all of them on one page, and manifest.json.
    """
    console = console or console_for_tables()
    tables, left_out = make_tables(study, names)
    notes = [*all_notes(study), *left_out]
    folder = out or study.root / "eval" / "tables"
    make_folder(folder)
    for table in tables:
        write(table, study.stamp, folder)
        console.print(terminal(table, study.stamp))
        for note in table.notes:
            console.print(note, soft_wrap=True)
    write_bytes(folder / "tables.md", markdown(tables, study.stamp, "Results", notes).encode())
    write_json(folder / "manifest.json", manifest(study))
    for note in notes:
        console.print(note, soft_wrap=True)
    console.print(f"written to {folder}/: {', '.join(table.name for table in tables)}", soft_wrap=True)
    return tables


def make_tables(study: Study, names: Sequence[str] = ()) -> tuple[list[Table], list[str]]:
    """The tables asked for, or all that these runs allow, and a line for each that they do not.

    Raises UserError for an unknown name, and for a table that was asked for and cannot be made.
    """
    for name in names:
        if name not in TABLES:
            raise UserError(f"no table '{name}'{nearest(name, TABLES)}")
    made, left_out = [], []
    for name in names or TABLES:
        try:
            made.append(TABLES[name](study))
        except UserError as error:
            if names:
                raise
            left_out.append(f"no table {name}: {error}")
    return made, left_out


def all_notes(study: Study) -> list[str]:
    """What a reader of the tables must know of the runs: what is left out, what counts as a miss and why."""
    frame = study.scores  # its notes are made with it
    reasons = {
        (row.prompt, row.seed, row.method, row.total): row.problem
        for row in frame.loc[frame["problem"].notna()].itertuples()
    }
    misses = [
        f"counted as a miss: {method}, '{prompt}', seed {seed}: {reason}"
        for (prompt, seed, method, _), reason in sorted(reasons.items())
    ]
    covered: dict[tuple[str, int], set[tuple[str, int]]] = {}
    for run in study.runs:
        covered.setdefault((study.labels[run.run_id], run.total), set()).add((run.prompt, run.seed))
    unpaired = len({frozenset(pairs) for pairs in covered.values()}) > 1
    balance = ["the methods do not cover the same prompts and seeds, so their rows are not paired"]
    return [*dict.fromkeys(study.notes), *misses, *(balance if unpaired else []), *power(study)]


def manifest(study: Study) -> dict[str, Any]:
    """What the numbers were made from: metric versions, scorer, pools, prior, settings, runs, packages."""
    stamp = study.stamp
    return {
        "metrics": dict(stamp.metrics),
        "clip": {"tag": stamp.clip, "sha256": stamp.weights},
        "pools": list(stamp.pools),
        "priors": list(stamp.priors),
        "streams": stamp.streams,
        "toy": stamp.mark == TOY,
        "stamp": stamp.mark,
        "configs": sorted({run.config_hash for run in study.runs}),
        "runs": {run.run_id: run.status for run in study.runs},
        "packages": packages(),
    }


def _write_sheets(folder: Path, study: Study) -> str:
    """Write the sheets; the characters that no font has."""
    total = max(study.totals)
    cells: dict[str, dict[str, Cell]] = {}
    for prompt in study.prompts:
        row: dict[str, Cell] = {"ground truth": [study.truth[prompt]]} if prompt in study.truth else {}
        for method in study.methods:
            own = [
                run
                for run in study.runs
                if (run.prompt, study.labels[run.run_id], run.total) == (prompt, method, total)
            ]
            row[method] = [_last_views(run) for run in sorted(own, key=lambda run: run.seed)]
        cells[prompt] = row
    seeds = ", ".join(map(str, study.seeds))
    azimuths = min(run.config.views.azimuths for run in study.runs)
    angles = ", ".join(f"{360 * k / azimuths:.0f}°" for k in shown_views(azimuths))
    priors = ", ".join(study.stamp.priors)
    title = f"prior {priors} · step {total} · azimuths {angles} · one line per seed ({seeds})"
    title = f"{study.stamp.mark.upper()} · {title}" if study.stamp.mark else title
    for old in names(folder):
        if _SHEET.fullmatch(old):
            (folder / old).unlink()
    for number, page in enumerate(contact_sheets(title, cells, azimuths), start=1):
        data = io.BytesIO()
        page.save(data, "PNG", optimize=True)
        name = "contact_sheet.png" if number == 1 else f"contact_sheet-{number:02d}.png"
        write_bytes(folder / name, data.getvalue())
    return fallbacks(texts(title, cells))[1]


def _last_views(run: RunRecord) -> np.ndarray | str:
    if run.failure:
        return f"failed: {run.failure}"
    try:
        return run.views(run.total)
    except Exception as error:  # a damaged picture, told in the cell as it is in the table
        return f"unreadable: {first_line(error)}"
