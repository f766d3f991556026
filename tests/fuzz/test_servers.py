"""Requests drawn at random to both servers as they listen: no answer of 500, no traceback, no token in a log.

FUZZ_SECONDS bounds each test.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import pytest

from eval import web
from eval.preference.app import Application
from eval.report.live import application
from tests.eval.conftest import PROMPTS, Sweep
from tests.listening import exchange, get, listen
from tests.smallstudy import make_study, tokens

pytestmark = pytest.mark.fuzz
SECONDS = float(os.environ.get("FUZZ_SECONDS", "4"))
LEAST = 80  # requests, also where a machine is busy
TOKEN = "token-of-an-onlooker-0123456789"

WORDS = (
    b"", b".", b"..", b"%2e%2e%2f", b"%00", b"%ff%fe", b"%", b"%zz", b"9" * 30, b"9" * 3000, b"-1",
    b"x" * 300, b"x" * 9000,
    b"index.html", b"run.html", b"assets", b"report.css", b"data", b"runs.js", b"results.js",
    b"live.json", b"media", b"run",
    b"thumb.webp", b"film.webp", b"object.glb", b"turn.webp", b"r", b"consent", b"answer",
    b"study.css", b"1", b"0",
    b"\xe4\xb8\xad", b"a b", b"a?b", b"#", b"'", b'"', b"<script>", b"{}", b"\x00", b"\r\n",
    b"since=1", b"token=",
)  # fmt: skip
METHODS = (b"POST", b"HEAD", b"PUT", b"OPTIONS", b"TRACE", b"get", b"", b"X" * 200, b"CONNECT")
BODIES = (
    b"", b"key=x", b"position=1&key=", b"position=" + b"9" * 5000, b"seconds=1e999&q.overall=left",
    b"\xff" * 100,
    b"a=1&" * 2000, b"x" * 20_000, b"5\r\nabcde\r\n0\r\n\r\n", b"zz\r\n",
    b"seconds=nan&position=0&q.alignment=left",
)  # fmt: skip


def a_request(dice: random.Random, host: bytes, names: list[bytes], cookie: bytes) -> bytes:
    """Most are well-formed, so that they reach the application."""

    def now_and_then(share: float) -> bool:
        return dice.random() < share

    words = [*WORDS, *names]
    path = b"/" + b"/".join(dice.choices(words, k=dice.randint(0, 4)))
    path += b"?" + b"&".join(dice.choices(words, k=dice.randint(0, 3))) if now_and_then(0.2) else b""
    path = path if now_and_then(0.05) else quote(path, safe="/%?=").encode()
    body = dice.choice(BODIES) if now_and_then(0.3) else b""
    method = b"POST" if body else b"GET"
    version = dice.choice((b"HTTP/1.0", b"HTTP/9", b"")) if now_and_then(0.05) else b"HTTP/1.1"
    head = [(dice.choice(METHODS) if now_and_then(0.1) else method) + b" " + path + b" " + version]
    head += [b"Host: " + (dice.choice((b"evil", b"")) if now_and_then(0.05) else host), b"Connection: close"]
    head += [b"Cookie: " + cookie] if now_and_then(0.9) else []
    lengths = (b"5", b"-1", b"9" * 40, b"x")
    length = dice.choice(lengths) if now_and_then(0.2) else str(len(body)).encode()
    head += [b"Content-Length: " + length] if body and now_and_then(0.9) else []
    head += [b"Transfer-Encoding: chunked"] if body and now_and_then(0.1) else []
    head += [b"X-" + dice.choice(words) + b": " + dice.choice(words)] if now_and_then(0.1) else []
    ranges = (b"0-", b"9-1", b"-", b"9" * 400 + b"-")
    head += [b"Range: bytes=" + dice.choice(ranges)] if now_and_then(0.1) else []
    head += [b"Upgrade: websocket\r\nConnection: upgrade"] if now_and_then(0.05) else []
    data = b"\r\n".join(head) + b"\r\n\r\n" + body
    if now_and_then(0.1):
        data = data[: dice.randint(0, len(data))]
    if now_and_then(0.05):
        data = bytes(dice.randrange(256) if now_and_then(0.02) else byte for byte in data)
    return data


def fuzz(address: tuple[str, int], names: list[bytes], cookie: bytes, what: str) -> None:
    dice, seen, until = random.Random(1), Counter[bytes](), time.monotonic() + SECONDS
    host = f"{address[0]}:{address[1]}".encode()
    while time.monotonic() < until or sum(seen.values()) < LEAST:
        data = a_request(dice, host, names, cookie)
        answer = exchange(address, data, finish=dice.random() < 0.3)
        status = answer[9:12] if answer.startswith(b"HTTP/1.1 ") else b"none"
        seen[status] += 1
        assert status < b"500" or status == b"none", (data, answer)
        assert b"Traceback" not in answer, data
    print(f"{what}: {sum(seen.values())} requests, {dict(seen)}")
    assert seen[b"200"] and seen[b"404"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that wait for nobody: a drawn request may be cut short, or leave its connection open."""
    monkeypatch.setattr(web, "WAIT_SECONDS", 0.2)
    monkeypatch.setattr(web, "KEEP_ALIVE_SECONDS", 0.2)


def test_the_live_report(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runs = Sweep(tmp_path / "runs")
    names = [runs.add("tp_sds", PROMPTS[0], seed).id.encode() for seed in range(2)]
    address = listen(application(runs.root, TOKEN))
    cookie = f"watch-{address[1]}={TOKEN}".encode()
    fuzz(address, names, cookie, "live report")
    assert get(address, "/", f"Cookie: {cookie.decode()}\r\n").startswith(b"HTTP/1.1 200 ")
    _check(capfd, [TOKEN])


def test_the_study(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path, ("a red cup", "a blue car"))
    links = tokens(study, 2)
    app = Application(study)
    monkeypatch.setattr(app.strangers, "allows", lambda _: True)  # else all but the first are 429
    monkeypatch.setattr(app.per_rater, "allows", lambda _: True)
    address = listen(app.asgi)
    capfd.readouterr()
    fuzz(address, [link.encode() for link in links], f"rater={links[0]}".encode(), "study")
    assert get(address, f"/r/{links[1]}").startswith(b"HTTP/1.1 303 ")
    _check(capfd, links)


def _check(capfd: pytest.CaptureFixture[str], secrets: list[str]) -> None:
    out, err = capfd.readouterr()
    with capfd.disabled():
        print(out.splitlines()[-1])
    assert "Traceback" not in out + err and "unexpected" not in out
    assert not [secret for secret in secrets if secret in out + err]
