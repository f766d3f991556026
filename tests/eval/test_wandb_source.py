"""What W&B keeps of runs, read back as the table of the run folders themselves.

Offline files are really logged. The server is a loopback one that answers the queries of the installed
client, in pages, and stumbles where a test tells it to.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import wandb

from eval import logs, wandb_source
from eval.logs import load_logs
from harness.config import Config, UserError
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec
from harness.records.tracking import Tracker

STEPS = 50


def _folder(root: Path, seed: int, prompt: str = "a red bus") -> RunFolder:
    spec = RunSpec(method="tp_sds", prompt=prompt, seed=seed, config=Config(steps=STEPS))
    return RunFolder.create(root, spec)


def _scalars(seed: int, step: int) -> dict[str, Any]:
    return {"t": 900 - step, "grad_norm": (seed + 1) * step / 7, "opacity": None if step == 20 else 0.25}


def _logged(folder: RunFolder, first: int, last: int) -> None:
    tracker = Tracker(folder, folder.spec(), "offline", study="study", sweep="sweep")
    for step in range(first, last + 1, 10):
        tracker.log(step, _scalars(folder.spec().seed, step))
    tracker.finish()
    _wait_for_files(folder.path.parent)


def _wait_for_files(root: Path) -> None:
    """W&B's `finish` returns a moment before its process has written the end of the offline file."""
    deadline = time.monotonic() + 30
    for path in root.glob("wandb/offline-run-*/run-*.wandb"):
        while "exit" not in {record["type"] for record in wandb_source._inspect(path)}:
            assert time.monotonic() < deadline, f"{path} has no end"
            time.sleep(0.05)


# ---- offline files


def test_offline_files_give_the_table_of_the_run_folders(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    done, resumed = _folder(runs, 0), _folder(runs, 1)
    _logged(done, 10, STEPS)
    done.finish({"steps": STEPS})
    _logged(resumed, 10, 30)
    resumed.truncate_metrics(20)
    _logged(resumed, 30, 40)  # the second segment tells the first two rows again
    truth = load_logs(runs)
    assert len(list(runs.glob("wandb/offline-run-*"))) == 3
    mirror = load_logs(runs / "wandb")
    words = truth["state"].astype(str).replace("new", "resume")  # a mirror knows of no checkpoint
    pd.testing.assert_frame_equal(mirror.assign(state=mirror["state"].astype(str)), truth.assign(state=words))
    assert set(mirror.query("state == 'done'")["run"]) == {done.id}

    (file,) = runs.glob(f"wandb/offline-run-*-{done.id}/run-*.wandb")
    alone = load_logs(file, ["grad_norm"], cache=tmp_path / "cache")
    assert alone["value"].tolist() == [step / 7 for step in range(10, STEPS + 1, 10)]
    cut, junk = tmp_path / "cut.wandb", tmp_path / "junk.wandb"
    cut.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 4])
    part = load_logs(cut, ["grad_norm"], cache=tmp_path / "cache")
    assert 0 < len(part) < len(alone) and set(part["state"]) == {"resume"}
    junk.write_bytes(b"no W&B file at all")
    with pytest.raises(UserError, match=f"{junk}: no readable W&B run"):
        load_logs(junk, cache=tmp_path / "cache")


def test_an_offline_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "SETTLED_SECONDS", 0)
    folder = _folder(tmp_path, 3)
    _logged(folder, 10, 20)
    mirror = tmp_path / "wandb"
    first = load_logs(mirror)
    with monkeypatch.context() as patch:
        patch.setattr(wandb_source, "_inspect", lambda path: pytest.fail(f"{path} was read again"))
        pd.testing.assert_frame_equal(load_logs(mirror), first)
    shutil.rmtree(mirror / "eval")
    (mirror / "eval").write_text("a file where the cache's folder would be")
    pd.testing.assert_frame_equal(load_logs(mirror), first)


def test_somebody_elses_offline_run_is_told(tmp_path: Path) -> None:
    settings = wandb.Settings(x_disable_stats=True, console="off", silent=True)
    run = wandb.init(project="p", dir=str(tmp_path), mode="offline", config={"lr": 1}, settings=settings)
    run.log({"loss": 1.0})
    run.finish()
    _wait_for_files(tmp_path)
    with pytest.raises(UserError, match="no run of this harness, its W&B config has no prompt and seed"):
        load_logs(tmp_path, cache=tmp_path / "cache")


# ---- a server


class Server(ThreadingHTTPServer):
    """Projects of runs behind the part of W&B's GraphQL that the public client asks for a history."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, dict[str, Any]] = {}  # by id; all of one project, entity/project
        self.asked: defaultdict[str, list[float]] = defaultdict(list)  # when
        self.stumble: dict[str, list[int]] = {}  # HTTP codes that a query's next answers have
        self.key_is_good = True

    def add(self, folder: RunFolder, group: str, state: str = "finished") -> None:
        """A run as the harness's mirror uploads it."""
        spec = folder.spec()
        rows = [
            {"_step": row["step"], "_runtime": 1.5, "_timestamp": 1.7e9}
            | {name: value for name, value in row.items() if name != "step" and value is not None}
            for row in folder.metrics()
        ]
        config = spec.model_dump(mode="json") | {"label": spec.label}
        self.runs[folder.id] = {"rows": rows, "config": config, "group": group, "state": state}

    def answer(self, name: str, v: dict[str, Any]) -> dict[str, Any]:
        """The `data` of a query."""
        if name == "Viewer":
            viewer = {"id": "1", "entity": "me", "username": "me", "email": "", "flags": "{}"}
            return {"viewer": viewer | {"teams": {"edges": []}} if self.key_is_good else None}
        if name == "GetDefaultEntity":
            return {"viewer": {"id": "1", "entity": "me"}}
        if (v["entity"], v["project"]) != ("entity", "project"):
            return {"project": None}
        if name == "Runs":
            return {"project": self._listing(v)}
        run = self.runs[v.get("name") or v.get("runName") or v["run"]]
        if name == "RunHistoryKeys":
            return {"project": {"run": {"historyKeys": {"lastStep": run["rows"][-1]["_step"]}}}}
        if name == "RunParquetHistory":
            return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": [{"_step": 1}]}}}}
        assert name == "HistoryPage", name
        rows = [row for row in run["rows"] if v["minStep"] <= row["_step"] < v["maxStep"]]
        return {"project": {"run": {"history": [json.dumps(row) for row in rows[: v["pageSize"]]]}}}

    def _listing(self, v: dict[str, Any]) -> dict[str, Any]:
        group = json.loads(v["filters"]).get("group")
        ids = [key for key, run in sorted(self.runs.items()) if group in (None, run["group"])]
        start = int(v.get("cursor") or 0)
        page = ids[start : start + 2]  # smaller than what is asked for
        edges = [{"cursor": str(i), "node": self._node(key)} for i, key in enumerate(page, start=start + 1)]
        more = {"endCursor": str(start + len(page)), "hasNextPage": start + len(page) < len(ids)}
        counts = {"internalId": "1", "runCount": len(ids), "readOnly": False}
        return counts | {"runs": {"edges": edges, "pageInfo": more}}

    def _node(self, key: str) -> dict[str, Any]:
        run = self.runs[key]
        texts = dict.fromkeys(("commit", "description", "notes", "sweepName"), None)
        return texts | {
            "id": f"storage-{key}",
            "projectId": "1",
            "name": key,
            "displayName": key,
            "state": run["state"],
            "group": run["group"],
            "jobType": run["config"]["label"],
            "config": json.dumps({name: {"value": value} for name, value in run["config"].items()}),
            "tags": [],
            "readOnly": False,
            "createdAt": "2026-01-01T00:00:00",
            "heartbeatAt": "2026-01-01T01:00:00",
            "systemMetrics": "{}",
            "summaryMetrics": "{}",
            "historyLineCount": len(run["rows"]),
            "historyKeys": {"lastStep": run["rows"][-1]["_step"]},
            "user": {"name": "me", "username": "me"},
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        code, reply = 200, {}
        if self.path == "/graphql":  # the client also sends its own telemetry
            request = json.loads(body)
            (name,) = re.findall(r"query (\w+)", request["query"])[:1]
            self.server.asked[name].append(time.monotonic())
            if codes := self.server.stumble.get(name):
                code, reply = codes.pop(0), {"errors": [{"message": "not now"}]}
            else:
                reply = {"data": self.server.answer(name, request.get("variables") or {})}
        data = json.dumps(reply).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server, with its address in the client's environment."""
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def study(tmp_path: Path, server: Server) -> list[RunFolder]:
    """Three runs of one sweep and one of another, finished, in their folders and on the server."""
    folders = [_folder(tmp_path / "runs", seed) for seed in range(3)]
    folders.append(_folder(tmp_path / "others", 3))
    for folder in folders:
        rows = [
            {"step": step, "time": step / 8, **_scalars(folder.spec().seed, step)}
            for step in range(10, STEPS + 1, 10)
        ]
        folder.append_metrics(rows)
        folder.finish({"steps": STEPS})
        server.add(folder, folder.path.parent.name)
    return folders


def test_a_server_gives_the_table_of_the_run_folders(
    tmp_path: Path, server: Server, study: list[RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_source, "PAGE", 20)  # steps: three pages a history
    mirror = load_logs("wandb:entity/project/runs")
    pd.testing.assert_frame_equal(mirror, load_logs(tmp_path / "runs"))
    assert len(server.asked["Runs"]) == 2 and len(server.asked["HistoryPage"]) == 3 * 3
    assert len(load_logs("wandb:entity/project")) == 4 * 5 * 3


def test_only_a_run_that_went_on_is_fetched_again(
    tmp_path: Path, server: Server, study: list[RunFolder]
) -> None:
    load_logs("wandb:entity/project/runs")
    pages = len(server.asked["HistoryPage"])
    again = load_logs("wandb:entity/project/runs")
    assert len(server.asked["HistoryPage"]) == pages == 3 and set(again["state"]) == {"done"}

    study[1].append_metrics([{"step": 60, "time": 9.0, "t": 5, "grad_norm": 1.0, "opacity": 1.0}])
    server.add(study[1], "runs", state="running")
    later = load_logs("wandb:entity/project/runs")
    assert len(server.asked["HistoryPage"]) == pages + 1
    assert set(later.query("step == 60")["run"]) == {study[1].id}
    assert set(later["state"]) == {"done", "running"}


def test_a_busy_server_is_asked_again_later(tmp_path: Path, server: Server, study: list[RunFolder]) -> None:
    server.stumble = {"Runs": [500], "HistoryPage": [429]}
    mirror = load_logs("wandb:entity/project/others")
    pd.testing.assert_frame_equal(mirror, load_logs(tmp_path / "others"))
    for name in ("Runs", "HistoryPage"):
        first, second = server.asked[name]
        assert second - first > 1.5  # seconds


def test_what_is_wrong_is_told_in_one_line(
    tmp_path: Path, server: Server, study: list[RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(source: str) -> str:
        with pytest.raises(UserError) as caught:
            load_logs(source)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    for malformed in ("wandb:", "wandb:entity", "wandb:entity/", "wandb:/project"):
        assert "write wandb:entity/project[/group]" in told(malformed)
    assert "no project 'entity/nothing'" in told("wandb:entity/nothing")
    assert "no runs of the group 'run'; did you mean 'runs'?" in told("wandb:entity/project/run")
    server.stumble = {"Runs": [403]}
    assert "W&B says: not now" in told("wandb:entity/project")
    server.key_is_good = False
    assert "Failed to verify credentials" in told("wandb:entity/project")
    monkeypatch.setattr(wandb_source, "LISTING_SECONDS", 1)
    server.stumble = {"Viewer": [503] * 9}
    assert "W&B says: " in told("wandb:entity/project")
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert "set WANDB_API_KEY" in told("wandb:entity/project")


def test_values_that_json_cannot_say_are_nan() -> None:
    item = {"_step": 3, "_runtime": 2.5, "a": "NaN", "b": float("inf"), "c": None, "d": "word", "e": True}
    row = wandb_source._row(item | {"image": {"_type": "image-file"}, "step": 99})
    assert row == {"step": 3, "time": 2.5, "a": None, "b": None, "c": None, "e": True}
