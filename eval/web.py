"""What pages served from here have in common, a live report's and a study's: headers, and how they listen."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from harness.config import UserError

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
        ws="none",
        lifespan="on",
        log_level="warning",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run(sockets=[listening])
