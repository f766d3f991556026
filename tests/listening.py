"""The two servers as they listen, in a thread of this process, and clients that speak raw bytes."""

from __future__ import annotations

import queue
import socket
import threading
from urllib.parse import urlsplit

from starlette.types import ASGIApp

from eval import web


def listen(app: ASGIApp) -> tuple[str, int]:
    """Where `app` is served from now on, until this process ends."""
    told: queue.Queue[str] = queue.Queue()
    threading.Thread(target=web.serve, args=(app, "127.0.0.1", 0, told.put), daemon=True).start()
    parts = urlsplit(told.get(timeout=60))
    assert parts.hostname and parts.port
    return parts.hostname, parts.port


def exchange(address: tuple[str, int], data: bytes, timeout: float = 30.0, finish: bool = True) -> bytes:
    """All that comes back for these bytes until the server closes; `finish` says that no more will come."""
    with socket.create_connection(address, timeout) as client:
        try:
            client.sendall(data)
            if finish:
                client.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: client.recv(65536), b""))
        except ConnectionError:
            return b""


def get(address: tuple[str, int], path: str, headers: str = "") -> bytes:
    """The answer to a GET, with its head."""
    head = f"GET {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nConnection: close\r\n{headers}\r\n"
    return exchange(address, head.encode("latin-1"), finish=False)
