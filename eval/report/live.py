"""`harness watch`: the report's pages over a folder of runs that are still being made, for this machine only.

Whoever has the address with its token gets in; a cookie keeps the token out of later addresses. Pictures and
records are made when they are asked for. Numbers and ground truth are those of the last `harness report`.
"""

from __future__ import annotations

import hmac
import secrets
import time
import webbrowser
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from re import fullmatch
from threading import Lock
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from eval import web
from eval.report import pictures
from eval.report.index import Suites, index, key, record, script, standing
from eval.report.pages import ASSETS, LIVE_POLICY, PAGES, page
from eval.sources.load import DAMAGED, RunRecord, load_run, load_runs
from harness.config import UserError
from harness.records.folder import RunFolder, run_folders
from harness.records.reader import RecordError, read_bytes

HOST = "127.0.0.1"
LOOK_SECONDS = 1.0  # between two looks at the folders, however many pages ask
HEADERS = web.HEADERS | {"content-security-policy": LIVE_POLICY}


class Board:
    """The runs of a folder as they stand, and since which look each has stood so."""

    def __init__(self, root: Path):
        self.root = root
        self.runs: dict[str, RunRecord] = {}
        self.damaged: dict[str, str] = {}  # by run id: what is wrong
        self.look = 1
        self.grown = 1  # the look at which runs were last added, removed, or found damaged
        self._since: dict[str, int] = {}
        self._told: dict[str, dict[str, Any]] = {}
        self._traces: dict[str, Any] = {}  # what tells a change, as it was before a run's last reading
        for folder in run_folders(root):
            self._look_at(folder)
        if not self.runs:
            load_runs(root)  # says why there is none
        self.suites = Suites(root, list(self.runs.values()))
        self._when = time.monotonic()
        self._lock = Lock()

    def refresh(self) -> None:
        """Look at the folders, unless that was done just now."""
        with self._lock:
            if time.monotonic() - self._when < LOOK_SECONDS:
                return
            self.look += 1
            try:
                folders = run_folders(self.root)
            except UserError:
                folders = []  # taken away while it is looked at
            for name in self._traces.keys() - {folder.id for folder in folders}:
                self._forget(name)
                del self._traces[name]
            for folder in folders:
                self._look_at(folder)
            if self.grown == self.look:
                self.suites = Suites(self.root, list(self.runs.values()))
            self._when = time.monotonic()

    def _forget(self, name: str) -> None:
        for known in (self.runs, self.damaged, self._since, self._told):
            known.pop(name, None)
        self.grown = self.look

    def _look_at(self, folder: RunFolder) -> None:
        name, trace = folder.id, folder.trace()
        if trace == self._traces.get(name):
            return
        self._traces[name] = trace
        try:
            run = load_run(folder)
            entry = standing(run)
        except (OSError, ValueError, UserError):
            self._forget(name)
            self.damaged[name] = f"damaged: {folder.damage() or 'it was replaced a moment ago'}"
            return
        wrong = run.failure if run.status == DAMAGED else None
        if name not in self.runs or wrong != self.damaged.get(name):
            self.grown = self.look
        if wrong:
            self.damaged[name] = wrong
        else:
            self.damaged.pop(name, None)
        if entry != self._told.get(name):
            self._since[name] = self.look
        self.runs[name], self._told[name] = run, entry

    def find(self, name: str) -> RunRecord | None:
        """The run of that key."""
        found = self.runs.get(name)  # most runs' keys are their ids
        return found or next((run for run in list(self.runs.values()) if key(run.run_id) == name), None)

    def changes(self, since: int) -> dict[str, dict[str, Any]]:
        """What of each run has changed after that look."""
        return {name: entry for name, entry in list(self._told.items()) if self._since[name] > since}

    def results(self) -> Path:
        """Where the last report left its numbers."""
        return self.root / "eval" / "report" / "data" / "results.js"


def application(root: Path, token: str) -> ASGIApp:
    """The pages of `root` for whoever has `token`."""
    board = Board(root)

    def shell(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in PAGES:
            return _missing()
        return Response(page(name, root.resolve().name, live=True), media_type="text/html")

    def asset(request: Request) -> Response:
        path = ASSETS / request.path_params["name"]
        return FileResponse(path) if path.parent == ASSETS and path.is_file() else _missing()

    def runs_script(request: Request) -> Response:
        board.refresh()
        damaged = [f"{name}: {what}" for name, what in sorted(board.damaged.items())]
        told = index(root.resolve().name, list(board.runs.values()), board.suites, {}, damaged)
        return _script(script("index", told | {"look": board.look, "results": _changed(board.results())}))

    def results_script(request: Request) -> Response:
        try:
            path = board.results()
            return _script(read_bytes(path.parent, path.name, RESULTS_BYTES))
        except (OSError, RecordError):
            note = f"`harness report {root}` computes tables and curves of the runs that have ended"
            return _script(script("results", {"notes": [note]}))

    def run_script(request: Request) -> Response:
        run = board.find(request.path_params["name"])
        try:
            return _missing() if run is None else _script(script("run", record(run, board.suites, None)))
        except UserError:  # damaged a moment ago
            return _missing()

    def news(request: Request) -> Response:
        board.refresh()
        since = request.query_params.get("since", "0")
        since = int(since) if since.isdecimal() and len(since) < 16 else 0
        changes = board.changes(since)
        told = {"look": board.look, "grown": board.grown > since, "results": _changed(board.results())}
        return JSONResponse(told | {"runs": changes})

    def media(request: Request) -> Response:
        run = board.find(request.path_params["run"])
        name = request.path_params["name"]
        if run is None and fullmatch(r"truth-[0-9a-f]{16}", request.path_params["run"]) and name in _PICTURES:
            return _truth(board.results().parents[1] / "media" / request.path_params["run"], name)
        if run is None or name not in MEDIA or run.status == DAMAGED:
            return _missing()
        try:
            find = {"object.glb": pictures.meshed, "turn.webp": pictures.rendered}.get(name)
            if made := find and find(run):  # its bytes, not its path: what is there may have become a link
                return Response(run.folder.picture(made), media_type=MEDIA[name])
            steps = run.view_steps
            when = _changed(run.folder.views_path(steps[-1])) if steps else ""
            data = _made(run.path, name, steps, when) if steps and name in _PICTURES else None
        except (OSError, ValueError, UserError):
            return _missing()
        return Response(data, media_type=MEDIA[name]) if data else _missing()

    routes = [
        Route("/", shell),
        Route("/assets/{name}", asset),
        Route("/data/runs.js", runs_script),
        Route("/data/results.js", results_script),
        Route("/data/run/{name}.js", run_script),
        Route("/live.json", news),
        Route("/media/{run}/{name}", media),
        Route("/{name}", shell),
    ]
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]),
            Middleware(_Door, token=token),
        ],
    )
    return web.Headers(web.Guard(app), HEADERS)


_PICTURES = ("thumb.webp", "turn.webp", "film.webp")
MEDIA = dict.fromkeys(_PICTURES, "image/webp") | {"object.glb": "model/gltf-binary"}
RESULTS_BYTES, PICTURE_BYTES = 2**28, 2**24


def _missing() -> Response:
    return PlainTextResponse("no such thing", 404)


def _truth(folder: Path, name: str) -> Response:
    """A picture of ground truth that the last report made."""
    try:
        return Response(read_bytes(folder, name, PICTURE_BYTES), media_type=MEDIA[name])
    except (OSError, RecordError):
        return _missing()


def _script(data: bytes) -> Response:
    return Response(data, media_type="text/javascript")


def _changed(path: Path) -> str:
    """When the file, or what a folder lists, last changed; "" where there is none."""
    try:
        return f"{path.stat().st_mtime_ns:x}"
    except OSError:
        return ""


@lru_cache(maxsize=512)
def _made(path: Path, name: str, steps: tuple[int, ...], when: str) -> bytes | None:
    del when  # a run that is done anew has the same steps and other pictures
    run = load_run(RunFolder(path))
    if name == "film.webp":
        return pictures.film(run, steps)
    return (pictures.thumb if name == "thumb.webp" else pictures.turn)(run, steps[-1])


class _Door:
    """Lets in who has the token, in the address once or in the cookie."""

    def __init__(self, app: ASGIApp, token: str):
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        request = Request(scope)
        cookie = f"watch-{request.url.port}"  # a browser's cookies do not tell ports apart
        given = request.query_params.get("token")
        answer: ASGIApp = self.app
        if request.method not in ("GET", "HEAD"):
            answer = PlainTextResponse("only GET", 405)
        elif given is not None and self._fits(given):
            answer = RedirectResponse("/", 303)
            answer.set_cookie(cookie, self.token, httponly=True, samesite="strict")
        elif given is not None or not self._fits(request.cookies.get(cookie, "")):
            answer = PlainTextResponse("open the address that `harness watch` printed", 403)
        await answer(scope, receive, send)

    def _fits(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())


def watch(root: Path, port: int, open_browser: bool) -> None:
    """Serve until Ctrl-C. Raises UserError for a folder without runs and for a port that is taken."""
    token = secrets.token_urlsafe(32)
    app = application(root, token)

    def ready(origin: str) -> None:
        address = f"{origin}?token={token}"
        print(f"{address}\nCtrl-C ends it; the runs do not notice")
        if open_browser:
            webbrowser.open(address)

    with suppress(KeyboardInterrupt):
        web.serve(app, HOST, port, ready)
