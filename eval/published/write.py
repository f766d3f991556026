"""Ended runs → parquet files, their suites, a dataset card and Croissant metadata; and that on the Hub."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eval.published.form import (
    CARD,
    COLUMNS,
    CROISSANT,
    ENVIRONMENT,
    HUB,
    METRICS,
    RUNS,
    SHARD_BYTES,
    SUITES,
    VERSION,
    VIEWS,
    public,
    secrets_of,
)
from eval.sources.load import ENDED
from harness.config import UserError, first_line
from harness.guidance.hub import is_hub_id, is_offline
from harness.records import suites as kept
from harness.records.files import make_folder, write_bytes, write_json
from harness.records.folder import RunFolder, run_folders
from harness.records.identity import canonical_json, without_place
from harness.records.schema import VALUES
from harness.records.stamp import mark, prior_hash

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TYPES = {"sc:Text": pa.string(), "sc:Integer": pa.int64(), "sc:Float": pa.float64(), "sc:ImageObject": IMAGE}
SCHEMAS = {
    file: pa.schema([(name, TYPES[kind]) for name, (kind, _) in columns.items()])
    for file, columns in COLUMNS.items()
}
Rows = list[dict[str, Any]]


def publish(
    root: Path, out: Path, name: str, licence: str, about: str = "", only: Sequence[RunFolder] | None = None
) -> list[str]:
    """Write the ended runs under `root`, or `only` these, into the new folder `out`; a line for each that is
    left out.

    `licence`: an SPDX identifier; `about`: a sentence for the card. Raises UserError where `out` holds
    something, where no run has ended, and where a run's suite is not there.
    """
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} holds something already: name a new folder")
    runs: Rows = []
    metrics: Rows = []
    folders: list[RunFolder] = []
    left_out: list[str] = []
    for folder in run_folders(root) if only is None else only:
        look = folder.look()
        if look.damage or look.status not in ENDED or look.spec is None:
            left_out.append(f"{folder.id}: {look.damage or look.status}")
            continue
        runs.append(_run(folder))
        metrics += _metrics(folder)
        folders.append(folder)
    if not runs:
        raise UserError(f"no run in {root} has ended: there is nothing to publish")
    suites = {sha: kept.read(root, sha) for row in runs if (sha := str(row["suite"] or ""))}
    make_folder(out / "data")
    make_folder(out / SUITES)
    files = [_parquet(out, RUNS, runs), _parquet(out, METRICS, metrics), *_views(out, folders)]
    for sha256, suite in suites.items():
        write_json(out / SUITES / f"{sha256[:12]}.json", suite)
        files.append(f"{SUITES}/{sha256[:12]}.json")
    write_bytes(out / CARD, _card(name, licence, about, runs, suites).encode())
    write_json(out / CROISSANT, _croissant(out, name, licence, about, files))
    return left_out


def _run(folder: RunFolder) -> dict[str, Any]:
    spec, env = folder.spec(), folder.env() or {}
    failure = folder.failure() or {}
    hidden = secrets_of(env, folder.deaths())
    prior = env.get("prior") or {}
    placed = spec.model_copy(update={"config": without_place(spec.config)})
    ending = folder.result() or {"reason": failure.get("reason"), "step": failure.get("step", 0)}
    kept = {key: env[key] for key in ENVIRONMENT if key in env}
    asked = spec.config.guidance.prior
    return {
        "run": folder.id,
        "method": spec.label,
        "prompt": spec.prompt,
        "seed": spec.seed,
        "steps": spec.config.steps,
        "status": folder.status(),
        "suite": spec.suite.sha256 if spec.suite else "",
        "prior": str(prior.get("tag", Path(asked).name)),
        "prior_sha256": prior_hash(prior),
        "mark": mark(prior, asked),
        "spec": canonical_json(placed.model_dump(mode="json")),
        "environment": canonical_json(public(kept, hidden)),
        "ending": canonical_json(public(ending, hidden)),
        "values": canonical_json(folder.json(VALUES) or {}),
    }


def _metrics(folder: RunFolder) -> Rows:
    rows = []
    for row in folder.metrics():
        for key, value in row.items():
            if key != "step" and isinstance(value, int | float | None) and not isinstance(value, bool):
                number = math.nan if value is None else float(value)
                rows.append({"run": folder.id, "step": row["step"], "metric": key, "value": number})
    return rows


def _parquet(out: Path, name: str, rows: Rows, number: int | None = None) -> str:
    path = f"data/{name}.parquet" if number is None else f"data/{name}-{number:05d}.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS[name]), out / path, compression="zstd")
    return path


def _views(out: Path, folders: Sequence[RunFolder]) -> Iterator[str]:
    shard, size, number = [], 0, 0
    for folder in folders:
        for step in folder.view_steps():
            data = folder.view_bytes(step)
            path = f"{folder.id}/step_{step:06d}.png"
            shard.append({"run": folder.id, "step": step, "image": {"bytes": data, "path": path}})
            size += len(data)
            if size > SHARD_BYTES:
                yield _parquet(out, VIEWS, shard, number)
                shard, size, number = [], 0, number + 1
    if shard or not number:
        yield _parquet(out, VIEWS, shard, number)


def _card(name: str, licence: str, about: str, runs: Rows, suites: dict[str, Any]) -> str:
    def listed(column: str) -> str:
        return ", ".join(sorted({str(row[column]) for row in runs if row[column]})) or "–"

    prompts, seeds = len({row["prompt"] for row in runs}), len({row["seed"] for row in runs})
    configs = "".join(
        f"- config_name: {each}\n  data_files: data/{each}{'-*' * (each == VIEWS)}.parquet\n"
        for each in COLUMNS
    )
    marks = {str(row["mark"]) for row in runs if row["mark"]}
    stamp = f"**{', '.join(sorted(marks))}**: these are no results of a real prior." if marks else ""
    pools = ", ".join(f"{suite.get('name')} ({sha256[:12]})" for sha256, suite in sorted(suites.items()))
    lines = [
        "---",
        f"license: {licence.lower()}",
        f"pretty_name: {json.dumps(name)}",
        "tags:",
        "- text-to-3d",
        "- score-distillation",
        "configs:",
        f"{configs}---",
        "",
        f"# {name}",
        "",
        *([about, ""] if about else []),
        *([stamp, ""] if stamp else []),
        f"{len(runs)} runs of {prompts} prompts × {seeds} seeds, layout {VERSION} of dreamtime-harness. "
        "`harness tables THIS_FOLDER` makes their tables, `harness figures THIS_FOLDER` their figures.",
        "",
        "| | |",
        "|---|---|",
        f"| methods | {listed('method')} |",
        f"| prior | {listed('prior')} |",
        f"| prior's files, sha256 | {listed('prior_sha256')} |",
        f"| pools | {pools or '–'} |",
        f"| licence | {licence} |",
    ]
    return "\n".join(lines) + "\n"


def _croissant(out: Path, name: str, licence: str, about: str, files: Sequence[str]) -> dict[str, Any]:
    """Croissant 1.0 (MLCommons): every file with its checksum, every column with its type."""
    distribution: list[dict[str, Any]] = []
    for path in files:
        data = (out / path).read_bytes()
        distribution.append(
            {
                "@type": "cr:FileObject",
                "@id": path,
                "name": path,
                "contentUrl": path,
                "contentSize": f"{len(data)} B",
                "encodingFormat": "application/json" if path.endswith(".json") else "application/x-parquet",
                "sha256": hashlib.sha256(data).hexdigest(),
            }
        )
    first = {each: next(path for path in files if path.startswith(f"data/{each}")) for each in COLUMNS}
    records = [
        {
            "@type": "cr:RecordSet",
            "@id": each,
            "name": each,
            "field": [
                {
                    "@type": "cr:Field",
                    "@id": f"{each}/{column}",
                    "name": column,
                    "description": what,
                    "dataType": kind,
                    "source": {"fileObject": {"@id": first[each]}, "extract": {"column": column}},
                }
                for column, (kind, what) in columns.items()
            ],
        }
        for each, columns in COLUMNS.items()
    ]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": name,
        "description": about or f"{name}: runs of score-distillation text-to-3D, made by dreamtime-harness.",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "license": f"https://spdx.org/licenses/{licence}.html",
        "version": f"{VERSION}.0.0",
        "distribution": distribution,
        "recordSet": records,
    }


def name_on_hub(to: str) -> str:
    """OWNER/NAME of `hf:OWNER/NAME`; UserError for another name, and where HF_HUB_OFFLINE forbids it."""
    name = to.removeprefix(HUB)
    if not is_hub_id(name):
        raise UserError(f"--to {to}: a dataset of the Hub is {HUB}OWNER/NAME")
    if is_offline():
        raise UserError(f"--to {to}: HF_HUB_OFFLINE is set; unset it, or publish to a folder")
    return name


def upload(folder: Path, name: str, private: bool) -> str:
    """Make the dataset where there is none, and let one commit give it this content; the commit's address.

    Raises UserError where the Hub is not reached or refuses.
    """
    from huggingface_hub import HfApi, constants, get_token

    api = HfApi()
    try:
        api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            repo_type="dataset",
            commit_message="Runs published by dreamtime-harness",
            delete_patterns="*",
        )
    except Exception as error:  # the client raises its own, httpx's and OSError's, by version
        hint = "" if get_token() else "; log in (`hf auth login`) or set HF_TOKEN"
        why = f"{HUB}{name} cannot be written at {constants.ENDPOINT} ({first_line(error)}){hint}"
        raise UserError(why) from error
    return str(done.commit_url)


CONTEXT = {  # of Croissant 1.0
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "sc": "https://schema.org/",
} | {
    word: f"cr:{word}"
    for word in (
        "citeAs", "column", "extract", "field", "fileProperty", "fileObject", "fileSet", "format", "includes",
        "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex",
        "repeated", "replace", "separator", "source", "subField", "transform",
    )
}  # fmt: skip
