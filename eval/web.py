"""What pages served from here have in common, a live report's and a study's: headers, and how they listen."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast
from urllib.parse import unquote_plus

import uvicorn
from h11 import LocalProtocolError
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from harness.config import LONGEST_NAME, UserError
from harness.faults import told

WAIT_SECONDS = 20.0  # for the rest of a request, or for a client to take its answer
KEEP_ALIVE_SECONDS = 30.0  # for the next request of a connection
LONGEST_PATH = 2000  # letters

HEADERS = {  # of every answer that does not say otherwise itself; each application adds its own policy
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Headers:
    """Adds headers to every response that does not have them."""

    def __init__(self, app: ASGIApp, headers: Mapping[str, str]):
        self.app, self.headers = app, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with if scope["type"] == "http" else send)


class Guard:
    """What no client may do to a server: ask for names that no file can have, and cause a traceback.

    An error is one line where the server was started, with a file that holds the rest; what the client sent,
    which may hold a token, is not in that line. A client that leaves is no error.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_noting(message: Message) -> None:
            nonlocal started
            started |= message["type"] == "http.response.start"
            try:
                await send(message)
            except (LocalProtocolError, RuntimeError):  # the client broke the protocol: nothing can be sent
                raise ClientDisconnect from None

        try:
            if _is_too_long(scope):
                await PlainTextResponse("no such thing", 404)(scope, receive, send_noting)
            else:
                await self.app(scope, receive, send_noting)
        except ClientDisconnect:
            pass
        except Exception as error:
            print(_less_what_was_sent(told(error), scope), flush=True)
            if not started:
                await PlainTextResponse("Sorry, that did not work.", 500)(scope, receive, send_noting)


def _is_too_long(scope: Scope) -> bool:
    path = scope["path"]
    return len(path) > LONGEST_PATH or any(len(part.encode()) > LONGEST_NAME for part in path.split("/"))


def _less_what_was_sent(line: str, scope: Scope) -> str:
    """The line with "…" for every part of the address and every cookie that may be a token."""
    sent = [scope["path"], unquote_plus(scope["query_string"].decode("latin-1"))]
    sent += [value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie"]
    for word in sorted(set(re.findall(r"[^/=&;\s]{8,}", "/".join(sent))), key=len, reverse=True):
        line = line.replace(word, "…")
    return line


class _Patient(H11Protocol):
    """A connection that is closed when its client is silent in the middle of a request, or takes nothing of
    its answer, for WAIT_SECONDS. Between requests it waits for KEEP_ALIVE_SECONDS."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = self.loop.time()
        self._known: object = None
        self._unsent = 0
        self._timer = self.loop.call_later(WAIT_SECONDS / 4, self._look)

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except Exception:  # h11 gives up on what follows a broken request
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        now = self.loop.time()
        unsent = self.transport.get_write_buffer_size()
        answering = self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body
        idle = self.timeout_keep_alive_task is not None or self.cycle is not self._known
        if unsent != self._unsent if unsent else answering or idle:
            self._since = now
        self._known, self._unsent = self.cycle, unsent
        if now - self._since >= WAIT_SECONDS:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(WAIT_SECONDS / 4, self._look)


def serve(app: ASGIApp, host: str, port: int, ready: Callable[[str], Any]) -> None:
    """Serve until Ctrl-C or SIGTERM; `ready` gets the address, ending in a slash. Port 0 is any free one.

    Raises UserError where the address cannot be had, and KeyboardInterrupt after Ctrl-C.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        why = str(error.strerror).partition(" (while")[0]  # Python names the address in it, too
        raise UserError(f"cannot listen on {host}:{port} ({why}); --port 0 takes a free one") from None
    shown = f"[{host}]" if ":" in host else host
    ready(f"http://{shown}:{listening.getsockname()[1]}/")
    config = uvicorn.Config(
        cast("Callable[..., Awaitable[None]]", app),
        access_log=False,  # it would keep tokens
        server_header=False,
        http=_Patient,
        ws="none",
        lifespan="on",
        log_level="critical",  # a line for each broken request fills a screen; Guard tells our errors
        timeout_keep_alive=KEEP_ALIVE_SECONDS,  # type: ignore[arg-type]  # any number of seconds
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run(sockets=[listening])
