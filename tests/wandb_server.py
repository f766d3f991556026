"""A W&B server on loopback: it keeps what the real client sends, and answers the public client from that.

It knows the part of W&B's GraphQL, file stream and storage that the installed client uses, with pages smaller
than asked for, and stumbles, refuses or falls silent where a test tells it to.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
import wandb

from harness.records import tracking
from harness.records.folder import RunFolder
from harness.records.mirror import RECORD, record

ENTITY = "entity"  # of the account that the key belongs to
HISTORY, SUMMARY = "wandb-history.jsonl", "wandb-summary.json"


@dataclass
class StoredRun:
    """What the server has of a run: history lines in order, config and summary, group, files by name."""

    lines: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
    state: str = "running"
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The history."""
        return [json.loads(line) for line in self.lines]

    @property
    def last_step(self) -> int:
        """The step of the last row; -1 before the first."""
        return self.rows[-1]["_step"] if self.lines else -1


class Server(ThreadingHTTPServer):
    """Runs by (project, id), all of one entity.

    `asked`: when each operation came; `stumble`: HTTP codes of an operation's next answers; `busy`: the HTTP
    code of every answer, while set; `sent`: lines and files that came in, also those that came before;
    `views`: workspaces that were saved.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.stored: dict[tuple[str, str], StoredRun] = {}
        self.asked: defaultdict[str, list[float]] = defaultdict(list)
        self.stumble: dict[str, list[int]] = {}
        self.busy: int | None = None
        self.sent: list[str] = []
        self.views: list[dict[str, Any]] = []
        self.key_is_good = True
        self.lock = threading.Lock()
        self._awake = threading.Event()
        self._awake.set()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def runs(self) -> dict[str, StoredRun]:
        """The runs of all projects by id."""
        return {run: stored for (_, run), stored in self.stored.items()}

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Take every request, and answer none before the end."""
        self._awake.clear()
        try:
            yield
        finally:
            self._awake.set()

    @contextmanager
    def answering(self, code: int | None = None) -> Iterator[None]:
        """Answer every request with this HTTP code; None: as it should."""
        self.busy = code
        try:
            yield
        finally:
            self.busy = None

    def close(self) -> None:
        """Stop serving."""
        self._awake.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed in the middle of a request is no error here."""

    def add(self, folder: RunFolder, group: str, state: str = "finished") -> None:
        """Store a run under `entity/project` as the harness's mirror uploads it, without its files."""
        spec = folder.spec()
        rows = [
            {"_step": row["step"], "_runtime": 1.5, "_timestamp": 1.7e9}
            | {name: value for name, value in row.items() if name != "step" and value is not None}
            for row in folder.metrics()
        ]
        self.stored["project", folder.id] = StoredRun(
            lines=[json.dumps(row) for row in rows],
            config=_wrapped(spec.model_dump(mode="json") | {"label": spec.label}),
            group=group,
            job_type=spec.label,
            state=state,
        )

    # ---- writing

    def stream(self, project: str, run: str, body: dict[str, Any]) -> dict[str, Any]:
        """Take a part of a run's file stream."""
        stored = self.stored[project, run]
        for name, part in body.get("files", {}).items():
            if name == HISTORY:
                start, lines = part["offset"], part["content"]
                assert start <= len(stored.lines), f"{run}: a gap before line {start}"
                stored.lines[start : start + len(lines)] = lines
                self.sent += [f"{run}@{json.loads(line)['_step']}" for line in lines]
            elif name == SUMMARY:
                stored.summary = json.loads(part["content"][-1])
        if body.get("complete"):
            stored.state = "failed" if body.get("exitcode") else "finished"
        return {}

    def _upsert(self, v: dict[str, Any]) -> dict[str, Any]:
        project, run = v["project"], v["name"]
        new = (project, run) not in self.stored
        stored = self.stored.setdefault((project, run), StoredRun())
        stored.group = v.get("groupName") or stored.group
        stored.job_type = v.get("jobType") or stored.job_type
        stored.tags = v.get("tags") or stored.tags
        stored.config = json.loads(v.get("config") or "null") or stored.config
        stored.state = "running"
        bucket = {
            "id": f"storage-{run}", "name": run, "displayName": run, "description": None, "sweepName": None,
            "config": json.dumps(stored.config), "historyLineCount": len(stored.lines),
            "project": {"id": "p", "name": project, "entity": {"id": "e", "name": ENTITY}},
        }  # fmt: skip
        return {"bucket": bucket, "inserted": new}

    # ---- reading

    def answer(self, name: str, v: dict[str, Any]) -> dict[str, Any]:
        """The `data` of a query or mutation."""
        if name == "Viewer":
            viewer = {"id": "1", "entity": ENTITY, "username": "me", "email": "", "flags": "{}"}
            return {"viewer": viewer | {"teams": {"edges": []}} if self.key_is_good else None}
        if name == "GetDefaultEntity":
            return {"viewer": {"id": "1", "entity": ENTITY}}
        if name == "UpsertBucket":
            return {"upsertBucket": self._upsert(v)}
        if name == "RunResumeStatus":
            return {"model": self._resume_status(v)}
        if name == "CreateRunFiles":
            files = [{"name": f, "uploadUrl": self._file_url(v["project"], v["run"], f)} for f in v["files"]]
            return {"createRunFiles": {"runID": f"storage-{v['run']}", "uploadHeaders": [], "files": files}}
        if name == "UpsertView2":
            self.views.append(v)
            return {"upsertView": {"view": {"id": "view", "name": v["name"]}, "inserted": True}}
        if "project" not in v:
            return {}  # what else the client would like to know
        known = {project for project, _ in self.stored}
        if v["entity"] != ENTITY or v["project"] not in known:
            return {"project": None}
        if name == "Runs":
            return {"project": self._listing(v)}
        run_id = v.get("name") or v.get("runName") or v.get("run") or ""
        run = self.stored.get((v["project"], run_id))
        if run is None:
            return {"project": {"run": None}}
        if name == "Run":
            return {"project": {"run": self._node(v["project"], run_id)}}
        if name == "RunHistoryKeys":
            return {"project": {"run": {"historyKeys": {"lastStep": run.last_step}}}}
        if name == "RunParquetHistory":
            return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": [{"_step": 1}]}}}}
        if name == "RunFiles":
            return {"project": {"internalId": "1", "run": self._files(v, run_id, run)}}
        assert name == "HistoryPage", name
        rows = [row for row in run.rows if v["minStep"] <= row["_step"] < v["maxStep"]]
        return {"project": {"run": {"history": [json.dumps(row) for row in rows[: v["pageSize"]]]}}}

    def _resume_status(self, v: dict[str, Any]) -> dict[str, Any]:
        run = self.stored.get((v["project"], v["name"]))
        bucket = run and {
            "id": f"storage-{v['name']}", "name": v["name"], "displayName": v["name"],
            "summaryMetrics": json.dumps(run.summary), "config": json.dumps(run.config),
            "logLineCount": 0, "historyLineCount": len(run.lines), "eventsLineCount": 0,
            "historyTail": json.dumps(run.lines[-1:]), "eventsTail": "[]", "tags": run.tags, "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
        }  # fmt: skip
        return {"id": "p", "name": v["project"], "entity": {"id": "e", "name": ENTITY}, "bucket": bucket}

    def _listing(self, v: dict[str, Any]) -> dict[str, Any]:
        group = json.loads(v["filters"]).get("group")
        ids = [
            run
            for (project, run), stored in sorted(self.stored.items())
            if project == v["project"] and group in (None, stored.group)
        ]
        start = int(v.get("cursor") or 0)
        page = ids[start : start + 2]  # smaller than what is asked for
        edges = [
            {"cursor": str(i), "node": self._node(v["project"], run)}
            for i, run in enumerate(page, start=start + 1)
        ]
        more = {"endCursor": str(start + len(page)), "hasNextPage": start + len(page) < len(ids)}
        counts = {"internalId": "1", "runCount": len(ids), "readOnly": False}
        return counts | {"runs": {"edges": edges, "pageInfo": more}}

    def _node(self, project: str, run: str) -> dict[str, Any]:
        stored = self.stored[project, run]
        texts = dict.fromkeys(("commit", "description", "notes", "sweepName"), None)
        return texts | {
            "id": f"storage-{run}",
            "projectId": "1",
            "name": run,
            "displayName": run,
            "state": stored.state,
            "group": stored.group,
            "jobType": stored.job_type,
            "config": json.dumps(stored.config),
            "tags": stored.tags,
            "readOnly": False,
            "createdAt": "2026-01-01T00:00:00",
            "heartbeatAt": "2026-01-01T01:00:00",
            "systemMetrics": "{}",
            "summaryMetrics": json.dumps(stored.summary),
            "historyLineCount": len(stored.lines),
            "historyKeys": {"lastStep": stored.last_step},
            "user": {"name": "me", "username": "me"},
        }

    def _files(self, v: dict[str, Any], run_id: str, run: StoredRun) -> dict[str, Any]:
        asked = v.get("fileNames") or []
        names = [name for name in sorted(run.files) if not asked or name in asked]
        start = int(v.get("fileCursor") or 0)
        page = names[start : start + 4]
        edges = [
            {"cursor": str(i), "node": self._file(v["project"], run_id, name, run.files[name])}
            for i, name in enumerate(page, start=start + 1)
        ]
        more = {"endCursor": str(start + len(page)), "hasNextPage": start + len(page) < len(names)}
        return {"fileCount": len(run.files), "files": {"edges": edges, "pageInfo": more}}

    def _file(self, project: str, run: str, name: str, data: bytes) -> dict[str, Any]:
        url = self._file_url(project, run, name)
        return {
            "id": f"{run}/{name}", "name": name, "url": url, "directUrl": url, "sizeBytes": len(data),
            "mimetype": "", "updatedAt": "2026-01-01T00:00:00", "md5": "",
        }  # fmt: skip

    def _file_url(self, project: str, run: str, name: str) -> str:
        return f"{self.url}/storage/{project}/{run}/{quote(name)}"

    def wait(self) -> None:
        """Return when the server is awake."""
        self._awake.wait()


def _wrapped(config: dict[str, Any]) -> dict[str, Any]:
    return {name: {"value": value} for name, value in config.items()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def _body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def _operation(self, body: bytes) -> tuple[str, dict[str, Any]]:
        """What is asked, by W&B's name or by the path's last part, and with what."""
        if self.path != "/graphql":
            return self.path.rpartition("/")[2] if "/storage/" not in self.path else "storage", {}
        request = json.loads(body)
        return re.findall(r"(?:query|mutation) (\w+)", request["query"])[0], request.get("variables") or {}

    def _serve(self) -> None:
        body = self._body()
        name, variables = self._operation(body)
        self.server.wait()
        with self.server.lock:
            self.server.asked[name].append(time.monotonic())
            code = codes.pop(0) if (codes := self.server.stumble.get(name)) else self.server.busy
            reply: Any = {"errors": [{"message": "not now"}]}
            if code is None:
                code, reply = 200, self._reply(name, variables, body)
        data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _reply(self, name: str, variables: dict[str, Any], body: bytes) -> Any:
        if self.path == "/graphql":
            return {"data": self.server.answer(name, variables)}
        parts = unquote(self.path).lstrip("/").split("/", 3)
        if name == "file_stream":
            _, _, project, rest = parts
            return self.server.stream(project, rest.partition("/")[0], json.loads(body))
        if name == "storage":
            _, project, run, file = parts
            files = self.server.stored[project, run].files
            if self.command == "GET":
                return files[file]
            files[file] = body
            self.server.sent.append(f"{run}/{file}")
        return {}  # the client's own telemetry

    do_GET = do_POST = do_PUT = _serve

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    """A server that serves."""
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.close()


def environment(server: Server, folder: Path) -> dict[str, str]:
    """What makes a client use the server, and keep its files in `folder`."""
    return {
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": "k" * 40,
        "WANDB_DIR": str(folder),
        "WANDB_ERROR_REPORTING": "false",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server, with its address in the environment of a client that knows no other."""
    with serving() as server:
        wandb.teardown()
        monkeypatch.setattr(tracking, "_the_follower", None)
        for name, value in environment(server, tmp_path).items():
            monkeypatch.setenv(name, value)
        yield server
        wandb.teardown()


def assert_whole(server: Server, folder: RunFolder) -> None:
    """The server has every row of the run once, its views byte for byte, and how it ended."""
    stored = server.runs[folder.id]
    truth = [{name: v for name, v in row.items() if v is not None} for row in folder.metrics()]
    assert history(stored) == truth
    pictures = {row["_step"]: stored.files[row["views"]["path"]] for row in stored.rows if "views" in row}
    assert pictures == {step: folder.views_path(step).read_bytes() for step in folder.view_steps()}
    assert stored.files[RECORD] == record(folder, folder.spec())
    status = folder.status()
    assert stored.summary["status"] == status
    assert stored.summary["last"] == (truth[-1] if truth else {})
    assert stored.summary["ending"] == (folder.result() if status == "done" else folder.failure())
    assert stored.state == {"done": "finished", "failed": "failed"}[status]


def history(stored: StoredRun) -> list[dict[str, Any]]:
    """The rows as metrics.jsonl has them, less what is null there."""
    return [
        {"step": row["_step"]} | {k: v for k, v in row.items() if not k.startswith("_") and k != "views"}
        for row in stored.rows
    ]
