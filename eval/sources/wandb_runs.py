"""Runs in W&B as run folders, so that everything that reads run folders reads them, too.

What `harness sync` and the mirror keep there is enough for spec, environment, rows, views, ending and suite;
checkpoints stay where they were written.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError

from eval.sources.logged import Problems, user_cache
from eval.sources.wandb_logs import PAGE, history_row, listed
from harness.config import UserError, first_line, first_problem
from harness.records.files import make_folder, read_json, write_bytes, write_json
from harness.records.folder import RunFolder, run_folders
from harness.records.identity import RunSpec
from harness.records.lease import locked
from harness.records.mirror import RECORD, VIEWS, suite_path
from harness.records.reader import is_folder, shown
from harness.text import parse_json

ORIGIN = "origin.json"  # in a rebuilt folder, the last file: which state of the run in W&B it is
_NAME = re.compile(r"[^./\0][^/\0]*")
WORKERS = 8  # runs fetched at a time


def run_folders_of(source: str, cache: Path | None = None) -> tuple[Path, Problems]:
    """A folder of run folders made from `wandb:entity/project[/group]`, and a line for each run left out.

    It lies in `cache` (default: the user's cache folder); runs that did not change in W&B are not fetched
    again, those that are gone there are dropped. Left out: what is no run of this harness, and an ended run
    that is not whole in W&B. Raises UserError as `load_logs` does, and where there is no run at all.
    """
    with listed(source) as (runs, server):
        name = hashlib.sha256(f"{server} {source}".encode()).hexdigest()[:16]
        root = (cache or user_cache()) / f"runs-{name}"
        make_folder(root)
        with locked(root):
            known = {path.parent for path in root.glob(f"*/{ORIGIN}")}
            for gone in known - {root / run.id for run in runs}:
                if is_folder(gone):
                    shutil.rmtree(gone)
            with ThreadPoolExecutor(WORKERS) as pool:
                problems = [problem for problem in pool.map(lambda run: _rebuild(root, run), runs) if problem]
    if not run_folders(root):
        raise UserError(f"{source}: {problems[0]}")
    return root, problems


def _rebuild(root: Path, run: Any) -> str | None:
    """Bring one folder up to date; why it is left out, or None."""
    if not _NAME.fullmatch(run.id):
        return f"{shown(run.id)}: no name for a folder"
    last = (run.historyKeys or {}).get("lastStep", -1)
    ending = [run.summaryMetrics.get(name) for name in ("status", "ending")]
    origin = [run.createdAt, last, run.historyLineCount, *ending]
    folder = RunFolder(root / run.id)
    if read_json(folder.path / ORIGIN) == origin:
        return None
    shutil.rmtree(folder.path, ignore_errors=True)
    try:
        _fill(folder, run, ended=ending[0] in ("done", "failed"))
        write_json(folder.path / ORIGIN, origin, durable=False)
    except UserError as error:
        shutil.rmtree(folder.path, ignore_errors=True)
        return f"{run.id}: {error}"
    return None


def _fill(folder: RunFolder, run: Any, ended: bool) -> None:
    files = {file.name: file for file in run.files(per_page=200) if file.size}
    if ended:
        kept = _json(_download(files, RECORD))
    else:
        kept = {"spec": {name: run.config[name] for name in RunSpec.model_fields if name in run.config}}
    try:
        spec = RunSpec.model_validate(kept["spec"])
    except ValidationError as error:
        raise UserError(f"no run of this harness, {first_problem(error)}") from None
    items = list(run.scan_history(page_size=PAGE, use_cache=False))
    pictures = {item["_step"]: item[VIEWS] for item in items if isinstance(item.get(VIEWS), dict)}
    (folder.path / "views").mkdir(parents=True)
    for step, picture in pictures.items():
        data = _download(files, picture["path"])
        if hashlib.sha256(data).hexdigest() != picture["sha256"]:
            raise UserError(f"the views of step {step} are not those that were logged")
        write_bytes(folder.views_path(step), data, durable=False)
    rows = [history_row(item) for item in items if "time" in item]  # imported runs have views alone
    folder.append_metrics(sorted(rows, key=lambda row: row["step"]))
    suite = suite_path(folder, spec)
    if suite and "suite" in kept and not suite.exists():
        suite.parent.mkdir(exist_ok=True)
        write_json(suite, kept["suite"], durable=False)
    for name in ("env", "result", "failure", "spec"):
        if name in kept:
            write_json(folder.path / f"{name}.json", kept[name], durable=False)


def _download(files: Mapping[str, Any], name: str) -> bytes:
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise UserError(f"{shown(name)} in W&B lies outside of its run")
    if name not in files:
        raise UserError(f"not whole in W&B, which lacks {name}; `harness sync` completes it")
    with TemporaryDirectory() as folder:
        files[name].download(root=folder, replace=True).close()
        return (Path(folder) / name).read_bytes()


def _json(data: bytes) -> dict[str, Any]:
    try:
        return parse_json(data)
    except ValueError as error:
        raise UserError(f"{RECORD} in W&B cannot be read ({first_line(error)})") from None
