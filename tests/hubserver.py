"""As much of the Hugging Face Hub's protocol as its client needs, on loopback, from and to folders."""

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS_FROM = 2000  # bytes: larger files are named by their sha256, smaller ones as git names them


@dataclass
class Hub:
    """Repositories `owner/name` → folder, each at one commit.

    Keyed by repository/path: `cuts`, after how many bytes the connection breaks, once; `stalls`, whose body
    stops half-way until the server ends; `spoilt`, sent with other bytes than its name says. `sent`:
    (repository/path, first byte, bytes) of every body, in order. A commit needs the `token`, and makes `made`
    a repository whose content it is.
    """

    repos: dict[str, Path]
    cuts: dict[str, int] = field(default_factory=dict)
    stalls: set[str] = field(default_factory=set)
    spoilt: set[str] = field(default_factory=set)
    sent: list[tuple[str, int, int]] = field(default_factory=list)
    requests: int = 0
    token: str = ""
    made: dict[str, bool] = field(default_factory=dict)  # repository → whether it was asked to be private
    stalled: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Hub":
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"


def _names(data: bytes) -> dict[str, Any]:
    """A file's entry in the tree: how git names it and, for a large one, its sha256."""
    git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry: dict[str, Any] = {"type": "file", "size": len(data), "oid": git}
    if len(data) >= LFS_FROM:
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            hub.requests += 1
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            api = parts[:1] == ["api"]
            parts = parts[1:] if parts[:1] == ["datasets"] else parts
            owner, name, verb, revision, *rest = [*(parts[2:] if api else parts), "", "", "", ""]
            repo, path = f"{owner}/{name}", "/".join(filter(None, rest))
            if repo not in hub.repos:
                self._refuse(401, "RepoNotFound")
            elif revision not in ("main", COMMIT):
                self._refuse(404, "RevisionNotFound")
            elif api and verb == "revision":
                self._json({"_id": "1", "id": repo, "modelId": repo, "sha": COMMIT, "siblings": []})
            elif api and verb == "tree":
                folder = hub.repos[repo]
                files = sorted(p for p in folder.rglob("*") if p.is_file())
                self._json([{"path": str(p.relative_to(folder)), **_names(p.read_bytes())} for p in files])
            elif verb == "resolve" and (hub.repos[repo] / path).is_file():
                self._file(f"{repo}/{path}", (hub.repos[repo] / path).read_bytes(), with_body)
            else:
                self._refuse(404, "EntryNotFound")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            if self.headers.get("Authorization") != f"Bearer {hub.token}":
                self._refuse(401, "RepoNotFound")
            elif parts == ["api", "repos", "create"]:
                asked = json.loads(body)
                repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
                hub.made.setdefault(repo, asked.get("private") or asked.get("visibility") == "private")
                self._json({"url": f"{hub.url}/datasets/{repo}", "name": repo, "id": "1"})
            elif parts == ["api", "validate-yaml"]:
                self._json({"errors": [], "warnings": []})
            elif parts[4:5] == ["preupload"]:
                files = json.loads(body)["files"]
                plain = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
                self._json({"files": plain})
            elif parts[4:5] == ["commit"]:
                folder = hub.repos["/".join(parts[2:4])]
                for line in map(json.loads, body.decode().splitlines()):
                    value, path = line["value"], folder / line["value"].get("path", "")
                    if line["key"] == "deletedFile":
                        path.unlink()
                    elif line["key"] == "file":
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(base64.b64decode(value["content"]))
                url = f"{hub.url}/datasets/{'/'.join(parts[2:4])}/commit/{COMMIT}"
                said = {"commitUrl": url, "commitOid": COMMIT, "success": True}
                self._json(said | {"hookOutput": ""})
            else:
                self._refuse(404, "EntryNotFound")

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _json(self, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _file(self, place: str, data: bytes, with_body: bool) -> None:
            names = _names(data)
            wanted = self.headers.get("Range", "")
            first = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
            self.send_response(206 if wanted else 200)
            self.send_header("ETag", f'"{names.get("lfs", names)["oid"]}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(data) - first))
            if wanted:
                self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if not with_body:
                return
            end = min(first + hub.cuts.pop(place, len(data)), len(data))
            if place in hub.stalls:
                end = len(data) // 2
            body = data[first:end]
            self.wfile.write(bytes(255 - byte for byte in body) if place in hub.spoilt else body)
            hub.sent.append((place, first, end - first))
            if place in hub.stalls:
                self.wfile.flush()
                hub.stalled.set()
                hub.ended.wait()
            if end < len(data):
                self.close_connection = True

    return Handler
