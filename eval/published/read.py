"""Published folders as run folders, so that everything that reads runs reads them, too."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from eval.published.form import CROISSANT, HUB, METRICS, RUNS, SUITES, VIEWS
from eval.published.write import SCHEMAS
from harness.config import UserError, first_line, first_problem
from harness.records import suites
from harness.records.files import aside, cache_home, make_folder, read_json, write_bytes, write_json
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec, run_id
from harness.records.lease import locked
from harness.records.reader import shown
from harness.text import parse_json


def is_published(path: Path) -> bool:
    """Whether a folder says that it is one."""
    return (path / CROISSANT).is_file()


def run_folders_of(source: str, cache: Path | None = None) -> Path:
    """A folder of run folders made from a published one, or from `hf:OWNER/NAME` of the Hugging Face Hub.

    It lies in `cache` (default: the user's cache folder) and is made once for each content. Raises UserError
    for what cannot be had or read, for files whose checksums are not those that it names, and for a run whose
    name is not of its spec.
    """
    folder = _fetched(source.removeprefix(HUB)) if source.startswith(HUB) else Path(source)
    about: Any = read_json(folder / CROISSANT)
    if not isinstance(about, dict):
        raise UserError(f"{source} is no published folder: it has no {CROISSANT} that can be read")
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    base = cache or cache_home() / "published"
    root = base / digest
    make_folder(base)
    with locked(base):
        if not root.exists():
            partial = aside(root)
            shutil.rmtree(partial, ignore_errors=True)
            try:
                _restore(source, folder, _checked(source, folder, about), partial)
                partial.rename(root)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return root


def _fetched(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, repo_type="dataset"))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"{HUB}{name}: {first_line(error)}") from None


def _checked(source: str, folder: Path, about: dict[str, Any]) -> list[str]:
    """The files that the metadata names, whole."""
    try:
        files = {str(each["@id"]): str(each["sha256"]) for each in about["distribution"]}
    except (KeyError, TypeError):
        raise UserError(f"{source}: {CROISSANT} names no files with checksums") from None
    for name, sha256 in files.items():
        path = folder / name
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise UserError(f"{source}: {shown(name)} lies outside of it")
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"{source}: {name} cannot be read ({error.strerror})") from None
        if found != sha256:
            raise UserError(f"{source}: {name} is not the file that {CROISSANT} names: fetch it again")
    return list(files)


def _table(source: str, folder: Path, files: list[str], name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path in files:
        if path.startswith(f"data/{name}"):
            try:
                rows += pq.read_table(folder / path, schema=SCHEMAS[name]).to_pylist()
            except (pa.ArrowException, OSError, ValueError) as error:
                raise UserError(f"{source}: {path}: {first_line(error)}") from None
    return rows


def _restore(source: str, folder: Path, files: list[str], root: Path) -> None:
    make_folder(root / suites.SUITES)
    for path in files:
        if path.startswith(f"{SUITES}/"):
            write_bytes(root / suites.SUITES / Path(path).name, (folder / path).read_bytes(), durable=False)
    runs: dict[str, RunFolder] = {}
    for row in _table(source, folder, files, RUNS):
        try:
            spec = RunSpec.model_validate(parse_json(row["spec"].encode()))
            environment, ending, values = (
                parse_json(row[key].encode()) for key in ("environment", "ending", "values")
            )
        except ValidationError as error:
            raise UserError(f"{source}: {row['run']}: {first_problem(error)}") from None
        except (ValueError, AttributeError) as error:
            raise UserError(f"{source}: {row['run']}: {first_line(error)}") from None
        if run_id(spec) != row["run"]:
            raise UserError(f"{source}: {row['run']} is not the name of what its spec asks for")
        made = runs[row["run"]] = RunFolder.create(root, spec)
        write_json(made.path / "env.json", environment, durable=False)
        name = "result" if row["status"] == "done" else "failure"
        write_json(made.path / f"{name}.json", ending, durable=False)
        if values:
            make_folder(made.eval)
            write_json(made.eval / "values.json", values, durable=False)
    logs: dict[str, dict[int, dict[str, Any]]] = {}
    for row in _table(source, folder, files, METRICS):
        value = None if math.isnan(row["value"]) else row["value"]
        value = int(value) if value is not None and row["metric"] in WHOLE else value
        logs.setdefault(row["run"], {}).setdefault(row["step"], {"step": row["step"]})[row["metric"]] = value
    for run, rows in logs.items():
        if run in runs:
            runs[run].append_metrics([rows[step] for step in sorted(rows)])
    for row in _table(source, folder, files, VIEWS):
        if row["run"] in runs and (row["image"] or {}).get("bytes"):
            path = runs[row["run"]].views_path(row["step"])
            make_folder(path.parent)
            write_bytes(path, row["image"]["bytes"], durable=False)


WHOLE = ("t", "nfe")  # counts, which logs have as whole numbers
