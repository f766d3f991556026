"""The web application: what it takes and refuses, what it tells, and what survives its being killed."""

from __future__ import annotations

import re
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from eval.preference import app as application
from eval.preference.app import Application, Limit, is_loopback
from tests.smallstudy import answers, begin, hidden, make_study, pictures, reply, served, tokens

KEPT = "max-age=31536000, immutable"
PROMPTS = ("a red cup", 'a <b>"blue"</b> car & <script>alert(1)</script>', "a green chair")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("app"), PROMPTS)


@contextmanager
def opened(study: Path, base: str = "http://study") -> Iterator[TestClient]:
    with TestClient(Application(study).asgi, base_url=base) as client:
        yield client


def test_a_rater_goes_from_link_to_thanks_and_resumes_elsewhere(made: Path):
    token, *_ = tokens(made)
    seen: list[str] = []
    with opened(made) as client:
        entered = client.get(f"/r/{token}", follow_redirects=False)
        cookie = entered.headers["set-cookie"]
        assert entered.status_code == 303 and "HttpOnly" in cookie and "SameSite=lax" in cookie
        assert "Secure" not in cookie and token not in entered.headers["location"]
        page = begin(client, token)
        assert "1 of 5" in page.text
        page = reply(client, page, "left", "tie")
        assert "2 of 5" in page.text
    with opened(made) as client:  # another browser, after the server was started anew
        page = client.get(f"/r/{token}", follow_redirects=True)
        while "Thank you" not in page.text:
            seen += pictures(page)
            page = reply(client, page, "right")
        again = client.get(f"/r/{token}", follow_redirects=True)
        assert "You have finished" in again.text and "<form" not in again.text
    assert len(seen) == len(set(seen)) == 8  # a repeat's pictures have addresses of their own
    mine = [row for row in answers(made) if row[0] == answers(made)[-1][0]]
    assert {(row[1], row[2]) for row in mine} >= {(p, q) for p in range(5) for q in ("alignment", "overall")}


def test_what_is_forged_or_used_up_is_refused(made: Path):
    one, other = tokens(made, 2)
    before = answers(made)
    with opened(made) as client:
        for link in (f"/r/{one[:-1]}", "/r/" + "x" * 32, "/r/%00", "/"):
            refused = client.get(link)
            assert refused.status_code == 404 and "personal link" in refused.text
        assert client.get(f"/r/{one}/x").status_code == 404
        page = begin(client, one)
        fields = hidden(page) | {"q.alignment": "left", "q.overall": "left"}
        theirs = hidden(begin(TestClient(client.app, base_url="http://study"), other))
        wrong = [
            (403, fields | {"key": ""}),
            (403, fields | {"key": theirs["key"]}),
            (403, fields | {"position": "1"}),
            (403, fields | {"position": "-1"}),
            (400, fields | {"q.overall": "best"}),
            (400, {name: value for name, value in fields.items() if name != "q.overall"}),
            (413, fields | {"note": "x" * 9000}),
        ]
        for status, data in wrong:
            assert client.post("/answer", data=data).status_code == status, data
        assert client.post("/answer", content=b"\xff=&" * 200).status_code == 400
        assert client.get("/answer").status_code == 405
        assert client.post("/consent", data={"key": fields["key"]}).status_code == 403
        assert answers(made) == before

        assert client.post("/answer", data=fields, follow_redirects=False).status_code == 303
        assert client.post("/answer", data=fields, follow_redirects=False).status_code == 303  # a retry
        changed = client.post("/answer", data=fields | {"q.overall": "right"})
        assert changed.status_code == 409 and "first answer stands" in changed.text
        assert len(answers(made)) == len(before) + 2

        page = client.get("/")
        while "Thank you" not in page.text:
            fields = hidden(page)
            page = reply(client, page, "tie")
        late = client.post("/answer", data=fields | {"q.alignment": "left", "q.overall": "left"})
        assert late.status_code == 409
        assert len(answers(made)) == len(before) + 10


def test_what_is_missing_is_asked_for_again_with_the_rest_kept(made: Path):
    with opened(made) as client:
        page = begin(client, tokens(made)[0])
        half = client.post("/answer", data=hidden(page) | {"q.overall": "tie"})
        assert half.status_code == 400 and "answer every question" in half.text
        assert re.search(r'name="q.overall" value="tie" required checked', half.text)
        assert not re.search(r'name="q.alignment"[^>]*checked', half.text)
        assert "2 of 5" in reply(client, half, "left").text


def test_nothing_that_is_sent_tells_methods_apart(made: Path):
    from eval.preference.design import load_design

    design = load_design(made)
    words = {"tp_sds", "uniform_sds", *(pair.a.run for pair in design.pairs), str(made), design.runs}
    words |= {name for pair in design.pairs for name in (pair.pair, *pair.media.values())}
    sent: list[str] = []
    heads: set[tuple[str, ...]] = set()
    with opened(made) as client:
        client.event_hooks["response"].append(
            lambda got: sent.append(f"{got.url} {got.headers} {got.read().decode('latin-1')}")
        )
        page = begin(client, tokens(made)[0])
        while "Thank you" not in page.text:
            for url in pictures(page):
                got = client.get(url)
                assert got.status_code == 200 and got.content[8:12] == b"WEBP"
                assert (
                    "no-store" not in got.headers["cache-control"]
                    and "private" in got.headers["cache-control"]
                )
                heads.add(tuple(f"{k}: {v}" for k, v in got.headers.items()))
                assert client.get(url.replace("/media/", "/media/1")).status_code == 404
            page = reply(client, page, "left")
        for path in ("/study.css", "/study.js"):
            client.get(path)
    assert len(heads) == 1  # also of one length
    assert not {word for word in words for text in sent if word in text}


def test_headers_and_escapes(made: Path):
    with opened(made) as client:
        page = begin(client, tokens(made)[0])
        for _ in range(4):
            assert "<script>alert" not in page.text and "<b>" not in page.text
            page = reply(client, page, "tie")
        for got in (page, client.get("/study.js"), client.get("/nowhere")):
            policy = got.headers["content-security-policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
            assert got.headers["referrer-policy"] == "no-referrer"
            assert got.headers["cache-control"] == ("no-store" if got.url.path != "/study.js" else KEPT)
            assert not {"server", "etag", "last-modified"} & set(got.headers)
    with opened(made, "https://study") as client:
        entered = client.get(f"/r/{tokens(made)[0]}", follow_redirects=False)
        assert "Secure" in entered.headers["set-cookie"]


def test_who_asks_too_often_waits_and_no_one_else_does(made: Path):
    served_app = Application(made)
    served_app.per_rater, served_app.strangers = Limit(30, 0.001), Limit(30, 0.001)
    with TestClient(served_app.asgi, base_url="http://study") as client:
        page = begin(client, tokens(made)[0])
        statuses = [client.get("/").status_code for _ in range(30)]
        assert statuses[0] == 200 and statuses[-1] == 429 and set(statuses) == {200, 429}
        assert client.post("/answer", data=hidden(page)).headers["retry-after"]
        guesses = [client.get(f"/r/{k}").status_code for k in range(40)]
        assert guesses[0] == 404 and guesses[-1] == 429
        client.cookies.clear()
        assert begin(client, tokens(made)[0]).status_code == 200  # from the same address


def test_a_limit_refills_and_forgets(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr("eval.preference.app.time.monotonic", lambda: now[0])
    monkeypatch.setattr("eval.preference.app.MAX_KEYS", 3)
    limit = Limit(burst=2, per_second=0.5)
    assert [limit.allows("a") for _ in range(3)] == [True, True, False]
    now[0] = 2.0
    assert [limit.allows("a") for _ in range(2)] == [True, False]
    assert all(limit.allows(key) for key in "bcd") and limit.allows("a")  # forgotten, so it is new


def test_a_disk_that_takes_nothing_is_told_and_nothing_is_lost(
    made: Path, capsys: pytest.CaptureFixture[str]
):
    served_app = Application(made)
    with TestClient(served_app.asgi, base_url="http://study") as client:
        page = begin(client, tokens(made)[0])
        before = answers(made)
        served_app.store._writer.execute("PRAGMA query_only = 1")
        failed = reply(client, page, "left")
        assert failed.status_code == 503 and "could not be stored" in failed.text
        served_app.store._writer.execute("PRAGMA query_only = 0")
        assert answers(made) == before
        assert "2 of 5" in reply(client, page, "left").text


def test_a_killed_server_keeps_all_that_it_acknowledged(tmp_path: Path):
    study = make_study(tmp_path, PROMPTS, seeds=range(12))
    acknowledged: set[tuple[str, int]] = set()
    done = threading.Event()

    def rate(url: str, token: str) -> None:
        with httpx.Client(base_url=url, timeout=5) as client:
            try:
                page = begin(client, token)
                while "position" in hidden(page):
                    fields = hidden(page) | {"q.alignment": "left", "q.overall": "right"}
                    if client.post("/answer", data=fields).status_code != 303:
                        break
                    acknowledged.add((token, int(fields["position"])))
                    if len(acknowledged) >= 60:
                        done.set()
                    page = client.get("/")
            except httpx.HTTPError:
                return

    raters = tokens(study, 8)
    with served(study) as (url, server):
        threads = [threading.Thread(target=rate, args=(url, token)) for token in raters]
        for thread in threads:
            thread.start()
        assert done.wait(60)
        # Somebody else writes for a moment, so that answers are under way when it dies: a server that
        # acknowledges what is not on disk yet loses them.
        with closing(sqlite3.connect(study / "study.db", timeout=10, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            time.sleep(0.5)
            server.send_signal(signal.SIGKILL)
            server.wait()
        for thread in threads:
            thread.join()
    with application.Store(study / "study.db") as store:
        names = {token: store.rater_of(token) for token in raters}
    kept = {(row[0], row[1], row[2]) for row in answers(study)}
    for token, position in acknowledged:
        rater = names[token]
        assert rater and {(rater.rater, position, q) for q in ("alignment", "overall")} <= kept
    whole = {(rater, position) for rater, position, _ in kept}
    assert len(kept) == 2 * len(whole)  # no half-stored comparison
    with served(study) as (url, _), httpx.Client(base_url=url) as client:
        assert client.get(f"/r/{raters[0]}", follow_redirects=True).status_code == 200
        proxied = client.get(f"/r/{raters[0]}", headers={"x-forwarded-proto": "https"})
        assert "Secure" in proxied.headers["set-cookie"]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("example.org", False)],
)
def test_loopback_is_known(host: str, loopback: bool):
    assert is_loopback(host) == loopback
