"""A leaderboard of published folders: one protocol, a row per method of each, a page that opens from disk.

A submission is a published folder beside the others. What the numbers must have in common to stand in one
table is the protocol; the first submission sets it, protocol.json keeps it, and another one is refused by
name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from eval.metrics.r_precision import RPrecision
from eval.published.read import is_published, run_folders_of
from eval.runs import Runs
from eval.tables import controls
from eval.tables.rows import distinct, groups, share_of
from eval.tables.table import frame_as_csv
from harness.config import UserError
from harness.records.files import make_folder, read_json, write_bytes, write_json
from harness.text import short

PROTOCOL = "protocol.json"
HERE = Path(__file__).parent
POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'"
Opened = Callable[[Path], Runs]
Row = dict[str, Any]  # text, counts and `Number`s, by head


def protocol_of(runs: Runs) -> dict[str, Any]:
    """What a number of R-Precision rests on beside the method and its prior."""
    views = runs[0].config.views
    if any(run.config.views != views for run in runs):
        raise UserError("its runs differ in their evaluation cameras")
    versions = runs.stamp.versions
    return {
        "r_precision": versions["r_precision"],
        "intervals": versions["intervals"],
        "scorer": runs.clip.tag,
        "scorer_sha256": runs.clip.weights_hash,
        "pools": sorted(pool.sha256 for pool in runs.pools.values()),
        "views": views.model_dump(mode="json", exclude={"count"}),
        "streams": runs.stamp.streams,
        "mark": runs.stamp.mark,
    }


def entries(root: Path, opened: Opened, cache: Path | None = None) -> tuple[dict[str, Any], list[Row]]:
    """The protocol and the rows of every published folder in `root`, best first.

    Raises UserError where there is none, and, with what differs, for a submission of another protocol.
    """
    kept = read_json(root / PROTOCOL)
    protocol: dict[str, Any] | None = kept if isinstance(kept, dict) else None
    rows: list[Row] = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and is_published(path)):
        try:
            runs = opened(run_folders_of(str(folder), cache))
            own = protocol_of(runs)
        except UserError as error:
            raise UserError(f"{folder.name}: {error}") from None
        protocol = protocol or own
        for key in sorted({*protocol, *own}):
            if protocol.get(key) != own.get(key):
                raise UserError(
                    f"{folder.name} is of another protocol: its {key} is {_short(own.get(key))}, and this "
                    f"leaderboard's {_short(protocol.get(key))}; make a leaderboard of its own for it"
                )
        rows += _rows(folder.name, runs)
    if protocol is None or not rows:
        raise UserError(f"{root} holds no published folder: harness publish RUNS --to {root}/NAME makes one")
    return protocol, sorted(rows, key=lambda row: (-row["majority"].value, row["submission"], row["method"]))


def _rows(name: str, runs: Runs) -> Iterator[Row]:
    held = controls.held(runs)
    for method, total, part in groups(runs, runs.of(RPrecision).frame):
        ids = set(part["run"])
        priors = sorted({run.prior for run in runs if run.run_id in ids})
        shares = {key: share_of(part, key) for key in ("majority", "per_view", "held_out")}
        yield {
            "submission": name, "method": method, "prior": ", ".join(priors), "steps": total, **shares,
            "prompts": distinct(part, "prompt"), "seeds": distinct(part, "seed"),
            "failed": int(part["problem"].notna().sum()), "controls": held,
        }  # fmt: skip


def _short(value: Any) -> str:
    return short(value if isinstance(value, str) else json.dumps(value), 80)


def write_board(root: Path, out: Path, title: str, opened: Opened, cache: Path | None = None) -> list[Path]:
    """index.html, board.csv, board.css of the submissions in `root` into `out`, and the protocol kept in
    `root`; the paths."""
    protocol, rows = entries(root, opened, cache)
    if not (root / PROTOCOL).exists():
        write_json(root / PROTOCOL, protocol)
    make_folder(out)
    templates = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined
    )
    page = templates.get_template("board.html").render(
        title=title, rows=rows, protocol=_told(protocol), policy=POLICY, mark=protocol["mark"]
    )
    made = {
        "index.html": page.encode(),
        "board.csv": frame_as_csv(pd.DataFrame(rows).map(str)).encode(),
        "board.css": (HERE / "templates" / "board.css").read_bytes(),
    }
    for name, data in made.items():
        write_bytes(out / name, data)
    return [out / name for name in made]


def _told(protocol: dict[str, Any]) -> dict[str, str]:
    return {key: _short(value) for key, value in protocol.items() if value}
