"""`harness report`: a folder of pages that opens from a disk, without a server and without a network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eval.report.index import Suites, index, key, record, script
from eval.report.pages import ASSETS, PAGES, page
from eval.report.pictures import Made, make, of_truth
from eval.sources.load import ENDED, RunRecord, load_runs
from harness.config import UserError
from harness.records.files import make_folder, write_bytes
from harness.records.reader import RecordError, is_file, names

THREADS = min(4, os.cpu_count() or 1)  # decoding and encoding pictures leave the interpreter alone


def write_report(
    runs: Path,
    out: Path,
    results: Callable[[], dict[str, Any]],
    say: Callable[[str], None] = print,
    only: Collection[str] | None = None,
    truth: Callable[[], Mapping[str, np.ndarray]] = dict,
) -> Path:
    """Write the report of `runs`, or of those with the ids in `only`, into `out`; its index.html. Pictures of
    unchanged runs are kept.

    `results` computes what eval.report.results says of the runs, `truth` the ring of each prompt's ground
    truth, uint8 [V, H, W, 3]; they are called only where a run has ended.
    Raises UserError for a folder without runs and for an `out` that holds something else.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / "assets" / "report.css").is_file():
        raise UserError(f"--out {out}: that folder holds something else; name a new one, or an older report")
    records, problems = load_runs(runs)
    records = [run for run in records if only is None or run.run_id in only]
    rings: Mapping[str, np.ndarray] = {}
    numbers: dict[str, Any] = {"notes": ["no run has ended yet, so there are no numbers"]}
    if any(run.status in ENDED for run in records):
        numbers, rings = results(), truth()
    numbers |= {"notes": [*dict.fromkeys([*problems, *numbers["notes"]])]}
    suites = Suites(runs, records)
    for folder in ("data/run", "media", "assets", "suites"):
        make_folder(out / folder)
    for asset in ASSETS.iterdir():
        _write(out / "assets" / asset.name, asset.read_bytes())
    made = _media(records, out / "media", say)
    known = {prompt: of_truth(ring_VHWC, out / "media") for prompt, ring_VHWC in rings.items()}
    numbers["truth"] = {
        name: {"key": key} | ({"turn": 1} if len(rings[name]) > 1 else {}) for name, key in known.items()
    }
    _write(out / "data" / "results.js", script("results", numbers))
    for run in records:
        try:
            about = record(run, suites, made[run.run_id])
        except RecordError as error:  # since it was loaded
            say(f"no page of {error}")
            continue
        _write(out / "data" / "run" / f"{key(run.run_id)}.js", script("run", about))
    for sha, name in suites.files.items():
        _write(out / name, ("\n".join(suites.prompts[sha]) + "\n").encode())
    _forget(out, {*known.values(), *(key(run.run_id) for run in records)})
    name = runs.resolve().name
    _write(out / "data" / "runs.js", script("index", index(name, records, suites, made, problems)))
    for each in PAGES:
        _write(out / each, page(each, name, live=False))
    return out / "index.html"


def _media(records: Sequence[RunRecord], folder: Path, say: Callable[[str], None]) -> Mapping[str, Made]:
    def one(run: RunRecord) -> Made:
        try:
            return make(run, folder / key(run.run_id))
        except (OSError, RecordError) as error:  # its pictures are missing; the others' are not
            say(f"no pictures of {run.run_id}: {error}")
            return Made("", [])

    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip([run.run_id for run in records], pool.map(one, records), strict=True))


def _forget(out: Path, keys: set[str]) -> None:
    """Remove what belongs to runs that are no more."""
    for folder in (out / "media").iterdir():
        if folder.name not in keys and is_file(folder, "made.json"):  # which no link is, or leads to
            shutil.rmtree(folder)
    for name in names(out / "data", "run"):
        stem, _, suffix = name.rpartition(".")
        if suffix == "js" and stem not in keys and is_file(out / "data", f"run/{name}"):
            (out / "data" / "run" / name).unlink()


_write = partial(write_bytes, durable=False)  # all of it can be made again
