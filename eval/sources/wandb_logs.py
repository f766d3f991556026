"""W&B's copies of runs as logs: of a server, through W&B's public API, and in offline `.wandb` files.

A history is kept in the cache in the form of metrics.jsonl, so that one table is made of all sources. It is
never a sampled one: `Run.scan_history` and the offline file give every row.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eval.sources.logged import LoggedRun, Problems, fingerprint
from harness.config import UserError, first_line, nearest
from harness.records.files import make_folder, read_json, write_bytes, write_json
from harness.records.lease import locked
from harness.records.mirror import client

# The client itself backs off on 429, 5xx and lost connections: it waits 2 s, then twice as long each time up
# to a minute. Of that a listing may take so many seconds; it goes on much longer for a history.
LISTING_SECONDS = 600
VERSION = 1  # of the rows in the cache
LOG = "metrics.jsonl"
PAGE = 1000  # steps per request
NOT_FINITE = ("NaN", "Infinity", "-Infinity")  # as W&B's JSON spells them


def fetch(source: str, cache: Path) -> tuple[list[LoggedRun], Problems]:
    """The runs of `wandb:entity/project[/group]`, and a line for each that is no run of this harness.

    A history is fetched where its creation time, last step or number of rows is not what `cache` has. Raises
    what `listed` raises.
    """
    with listed(source) as (runs, server):
        return _collect(_online(run, cache, server) for run in runs)


@contextmanager
def listed(source: str) -> Iterator[tuple[list[Any], str]]:
    """The runs of `wandb:entity/project[/group]` as the public API has them, and the server's address.

    Raises UserError for a malformed source, no such project or group, no API key, a refusal, and a server
    that does not answer for LISTING_SECONDS; a refusal may also come from what is done with the runs.
    """
    path, _, group = source.removeprefix("wandb:").partition("/")
    project, _, group = group.partition("/")
    if not path or not project:
        raise UserError(f"'{source}' is no W&B source: write wandb:entity/project[/group]")
    wandb = client()
    from wandb.errors import Error, UsageError
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    path = f"{path}/{project}"
    try:
        api = wandb.Api(timeout=LISTING_SECONDS)
        runs = list(api.runs(path, filters={"group": group} if group else None, lazy=False))
        if not runs:
            groups = {run.group for run in api.runs(path) if run.group} if group else set()
            what = f"no runs of the group '{group}'{nearest(group, groups)}" if group else "no runs"
            raise UserError(f"{source}: the project has {what}")
        yield runs, api.settings["base_url"]
    except UsageError as error:
        raise UserError(f"{source}: {first_line(error)} Or set WANDB_API_KEY.") from error
    except (Error, WandbApiFailedError) as error:
        raise UserError(f"{source}: W&B says: {first_line(error)}") from error
    except ValueError as error:
        if "Could not find project" not in str(error):
            raise
        raise UserError(f"{source}: no project '{path}', or this API key may not see it") from error


def read_offline(files: Sequence[Path], cache: Path) -> tuple[list[LoggedRun], Problems]:
    """The runs of offline `.wandb` files, and a line for each file that is none.

    Where a run was resumed it has several files, each with its whole story up to then: the one that goes
    furthest counts, the latest of equals. Raises UserError where there is no run at all.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # each waits for a process
        return _collect(pool.map(lambda path: _offline(path, cache), files))


def _collect(found: Iterable[tuple[int, LoggedRun] | str]) -> tuple[list[LoggedRun], Problems]:
    best: dict[str, tuple[int, LoggedRun]] = {}
    problems: Problems = []
    for item in found:
        if isinstance(item, str):
            problems.append(item)
        elif item[0] >= best.get(item[1].run, item)[0]:
            best[item[1].run] = item
    if not best:
        raise UserError(problems[0])
    return [run for _, run in best.values()], problems


def _online(run: Any, cache: Path, server: str) -> tuple[int, LoggedRun] | str:
    last = (run.historyKeys or {}).get("lastStep", -1)
    folder = _folder(cache, server, *run.path)
    logged = _logged(run.id, run.config, run.state, last, folder)
    key = [run.createdAt, last, run.historyLineCount]
    if not isinstance(logged, str) and _kept(folder, key) is None:
        _keep(folder, key, run.scan_history(page_size=PAGE, use_cache=False))
    return logged


def _offline(path: Path, cache: Path) -> tuple[int, LoggedRun] | str:
    folder = _folder(cache, str(path.resolve()))
    key = fingerprint(path)
    story = _kept(folder, key)
    if story is None:
        records = _inspect(path)
        run = next((record["run"] for record in records if record["type"] == "run"), None)
        if run is None:
            return f"{path}: no readable W&B run"
        items = [record["history"]["item"] for record in records if record["type"] == "history"]
        codes = [record["exit"].get("exit_code", 0) for record in records if record["type"] == "exit"]
        story = {
            "run": run["run_id"],
            "config": run.get("config", {}).get("update", {}),
            "state": "crashed" if not codes else "failed" if codes[0] else "finished",
            "last": max((item["_step"] for item in items), default=-1),
        }
        _keep(folder, key, items, story)
    return _logged(story["run"], story["config"], story["state"], story["last"], folder)


def _inspect(path: Path) -> list[dict[str, Any]]:
    """The records of a .wandb file, by W&B's own reader (what `wandb leet inspect --json` runs)."""
    from wandb.util import get_core_path

    path = path.resolve()
    command = [get_core_path(), "leet", "inspect", "--no-observability", "--json", "--run-file", str(path)]
    done = subprocess.run([*command, str(path.parent.parent)], capture_output=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _logged(
    run: str, config: Mapping[str, Any], state: str, last: int, folder: Path
) -> tuple[int, LoggedRun] | str:
    """Its last step and the run in the harness's words, or why it is none of the harness's.

    W&B calls a run finished when its process ended it, done or not.
    """
    prompt, seed, settings = (config.get(name) for name in ("prompt", "seed", "config"))
    if not isinstance(prompt, str) or not isinstance(seed, int):
        return f"{run}: no run of this harness, its W&B config has no prompt and seed"
    steps = settings.get("steps", last) if isinstance(settings, dict) else last
    done = "done" if last >= steps else "resume"
    words = {"finished": done, "failed": "failed", "running": "running", "pending": "new"}
    method = config.get("label") or config.get("method") or ""
    return last, LoggedRun(run, method, prompt, seed, words.get(state, "resume"), folder / LOG)


# ---- the cache: a folder per history, the log and then run.json, which says what it was made from


def _folder(cache: Path, *origin: str) -> Path:
    name = hashlib.sha256("/".join(origin).encode()).hexdigest()[:16]
    return cache / f"history-v{VERSION}" / name


def _kept(folder: Path, key: Any) -> dict[str, Any] | None:
    kept = read_json(folder / "run.json") if (folder / LOG).exists() else None
    return kept if kept and key is not None and kept["key"] == key else None


def _keep(folder: Path, key: Any, items: Iterable[Mapping[str, Any]], more: Mapping[str, Any] = {}) -> None:
    rows = sorted(map(history_row, items), key=lambda row: row["step"])
    make_folder(folder)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    with locked(folder):  # the two files belong together, whoever else is at it
        write_bytes(folder / LOG, text.encode(), durable=False)
        write_json(folder / "run.json", {"key": key, **more}, durable=False)


def history_row(item: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a history as the harness logs it; W&B's own keys start with an underscore."""
    row = {"step": item["_step"], "time": item.get("_runtime")}
    for name, value in item.items():
        if name.startswith("_") or name == "step":
            continue
        if value is None or value in NOT_FINITE or (isinstance(value, float) and not math.isfinite(value)):
            row[name] = None
        elif isinstance(value, int | float):
            row[name] = value
    return row
