"""What no client may do to a server: hold it, make it say more than a line, or have it print a token."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from eval import web
from eval.preference.app import Application
from eval.report.live import application
from tests.eval.conftest import PROMPTS, Sweep
from tests.listening import exchange, get, listen
from tests.smallstudy import begin, make_study, tokens

TOKEN = "a-token-of-an-onlooker-that-is-long"
NINES = "9" * 30
LONG = [
    "x" * 300,
    "x" * 5000,
    "/".join("y" * 100),
    NINES,
    "9" * 1000,
    "9" * 5000,
    "%00",
    "é" * 200,
    "..%2f" * 20,
]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(web, "WAIT_SECONDS", 0.4)
    yield


async def _failing(request: Request) -> Response:
    raise OSError(f"no such file: {request.url.path}?{request.url.query} {request.cookies.get('rater')}")


async def _body(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


async def _large(request: Request) -> Response:
    return Response(b"x" * 50_000_000)


@pytest.fixture
def address(impatient: None) -> tuple[str, int]:
    routes = [
        Route("/r/{token}", _failing),
        Route("/large", _large),
        Route("/body", _body, methods=["POST"]),
    ]
    return listen(web.Guard(Starlette(routes=routes)))


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTT",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: ",
        b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc",
    ],
)
def test_a_half_open_connection_is_closed(
    sent: bytes, address: tuple[str, int], capfd: pytest.CaptureFixture[str]
) -> None:
    exchange(address, sent, finish=False)  # ends when the server closes, else by its own limit of time
    out, err = capfd.readouterr()
    assert out + err == ""


def test_a_client_that_sends_a_letter_at_a_time_is_closed(address: tuple[str, int]) -> None:
    with socket.create_connection(address, 30) as client:
        started = time.monotonic()
        with pytest.raises(ConnectionError):
            for letter in b"GET /" + b"a" * 10_000:
                client.sendall(bytes([letter]))
                time.sleep(0.05)
                assert time.monotonic() - started < 30


def test_a_client_that_takes_nothing_of_its_answer_is_closed(address: tuple[str, int]) -> None:
    with socket.create_connection(address, 30) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(3)
        got = 0
        with pytest.raises(ConnectionError):
            while data := client.recv(1 << 20):
                got += len(data)
            raise ConnectionError
        assert 0 < got < 50_000_000


def test_a_client_that_leaves_and_an_error_are_no_traceback(
    address: tuple[str, int],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    exchange(address, b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
    exchange(address, b"\x16\x03\x01\x02\x00\x01\x00 nonsense\r\n\r\n")
    answer = get(address, "/r/secret-of-a-rater?also=another-secret", "Cookie: rater=third-secret-here\r\n")
    assert answer.startswith(b"HTTP/1.1 500 ") and b"secret" not in answer
    out, err = capfd.readouterr()
    assert err == "" and out.count("\n") == 1 and "unexpected OSError" in out
    assert "secret" not in out and "Traceback" not in out
    (saved,) = tmp_path.iterdir()
    assert "Traceback" in saved.read_text() and saved.stat().st_mode & 0o077 == 0 and str(saved) in out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Sweep(tmp_path_factory.mktemp("web") / "runs")
    made.add("tp_sds", PROMPTS[0], 0)
    return made.root


def test_names_that_cannot_be_are_not_found_in_a_live_report(runs: Path) -> None:
    with TestClient(application(runs, TOKEN), base_url="http://127.0.0.1") as client:
        assert client.get("/", params={"token": TOKEN}).status_code == 200
        for name in LONG:
            for path in (f"/{name}", f"/assets/{name}", f"/data/run/{name}.js", f"/media/{name}/thumb.webp"):
                assert client.get(path).status_code == 404, path
            assert client.get("/live.json", params={"since": name}).json()["look"]


def test_names_that_cannot_be_are_not_found_in_a_study(tmp_path: Path) -> None:
    study = make_study(tmp_path, ("a red cup",))
    token, *_ = tokens(study)
    with closing(TestClient(Application(study).asgi, base_url="http://study")) as client, client:
        for name in LONG:
            assert client.get(f"/r/{name}").status_code in (404, 429)
        begin(client, token)
        for name in LONG:
            for path in (f"/{name}", f"/media/{name}/x.webp", f"/media/1/{name}"):
                assert client.get(path).status_code in (404, 429), path
            assert client.post("/answer", data={"position": name}).status_code in (403, 413, 429)
