"""`harness watch`: the report's pages over a folder of runs that are still being made, for this machine only.

Whoever has the address with its token gets in; a cookie keeps the token out of later addresses. Pictures and
records are made when they are asked for. Numbers are those of the last `harness report`.
"""

from __future__ import annotations

import hmac
import secrets
import time
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
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
from eval.load import RunRecord, load_run, load_runs
from eval.report import pictures
from eval.report.index import Suites, index, key, record, script, standing
from eval.report.pages import ASSETS, LIVE_POLICY, PAGES, page
from harness.config import UserError
from harness.records.folder import RunFolder, run_folders

HOST = "127.0.0.1"
LOOK_SECONDS = 1.0  # between two looks at the folders, however many pages ask
HEADERS = web.HEADERS | {"content-security-policy": LIVE_POLICY}


class Board:
    """The runs of a folder as they stand, and since which look each has stood so."""

    def __init__(self, root: Path):
        self.root = root
        before = {folder.id: _trace(folder) for folder in run_folders(root)}
        self.runs = {run.run_id: run for run in load_runs(root)[0]}
        self.suites = Suites(root, list(self.runs.values()))
        self.look = 1
        self.grown = 1  # the look at which runs were last added or removed
        self._since = dict.fromkeys(self.runs, 1)
        self._told = {name: standing(run) for name, run in self.runs.items()}
        # What tells a change, as it was before a run's last reading.
        self._traces = {name: trace for name, trace in before.items() if name in self.runs}
        self._when = time.monotonic()
        self._lock = Lock()

    def refresh(self) -> None:
        """Look at the folders, unless that was done just now."""
        with self._lock:
            if time.monotonic() - self._when < LOOK_SECONDS:
                return
            self.look += 1
            names = {path.parent.name for path in self.root.glob("*/spec.json")}
            for name in self.runs.keys() - names:
                del self.runs[name], self._since[name], self._told[name]
                self._traces.pop(name, None)
                self.grown = self.look
            for name in sorted(names):
                self._look_at(name)
            if self.grown == self.look:
                self.suites = Suites(self.root, list(self.runs.values()))
            self._when = time.monotonic()

    def _look_at(self, name: str) -> None:
        folder = RunFolder(self.root / name)
        trace = _trace(folder)
        if trace == self._traces.get(name):
            return
        try:
            run = load_run(folder)
        except (OSError, ValueError, UserError):
            return  # half-written, or damaged: what is known of it stays
        self._traces[name] = trace
        if name not in self.runs:
            self.grown = self.look
        entry = standing(run)
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
        return (
            _missing()
            if name not in PAGES
            else Response(page(name, root.resolve().name, live=True), media_type="text/html")
        )

    def asset(request: Request) -> Response:
        path = ASSETS / request.path_params["name"]
        return FileResponse(path) if path.parent == ASSETS and path.is_file() else _missing()

    def runs_script(request: Request) -> Response:
        board.refresh()
        told = index(root.resolve().name, list(board.runs.values()), board.suites, {})
        return _script(script("index", told | {"look": board.look, "results": _changed(board.results())}))

    def results_script(request: Request) -> Response:
        try:
            return _script(board.results().read_bytes())
        except OSError:
            note = f"`harness report {root}` computes tables and curves of the runs that have ended"
            return _script(script("results", {"notes": [note]}))

    def run_script(request: Request) -> Response:
        run = board.find(request.path_params["name"])
        return _missing() if run is None else _script(script("run", record(run, board.suites, None)))

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
        if run is None or name not in MEDIA:
            return _missing()
        made = {"object.glb": pictures.meshed(run), "turn.webp": pictures.rendered(run)}.get(name)
        if made and made.is_file():
            return FileResponse(made)
        if name == "object.glb":
            return _missing()
        data = _made(run.path, name, run.view_steps) if run.view_steps else None
        return Response(data, media_type="image/webp") if data else _missing()

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


MEDIA = ("thumb.webp", "turn.webp", "film.webp", "object.glb")


def _missing() -> Response:
    return PlainTextResponse("no such thing", 404)


def _script(data: bytes) -> Response:
    return Response(data, media_type="text/javascript")


def _trace(folder: RunFolder) -> tuple[str, str, str]:
    """What is another once something of the run has changed that a page shows."""
    return folder.status(), _changed(folder.path / "state.json"), _changed(folder.path / "views")


def _changed(path: Path) -> str:
    """When the file, or what a folder lists, last changed; "" where there is none."""
    try:
        return f"{path.stat().st_mtime_ns:x}"
    except OSError:
        return ""


@lru_cache(maxsize=512)
def _made(path: Path, name: str, steps: tuple[int, ...]) -> bytes | None:
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


def watch(root: Path, port: int, open_browser: bool, say: Callable[[str], None] = print) -> None:
    """Serve until Ctrl-C. Raises UserError for a folder without runs and for a port that is taken."""
    token = secrets.token_urlsafe(32)
    app = application(root, token)

    def ready(origin: str) -> None:
        address = f"{origin}?token={token}"
        say(f"{address}\nCtrl-C ends it; the runs do not notice")
        if open_browser:
            webbrowser.open(address)

    with suppress(KeyboardInterrupt):
        web.serve(app, HOST, port, ready)
