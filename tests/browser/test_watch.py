"""`harness watch` in a real browser, over a tiny sweep that really runs."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests import tinyruns

OpenPage = Callable[..., Page]


@pytest.fixture
def watched(tmp_path: Path, tiny_prior: Path) -> Iterator[tuple[Path, list[str], str, subprocess.Popen]]:
    """A folder of three runs that nobody has begun, and the address that `harness watch` printed for it."""
    root = tmp_path / "runs"
    ids = tinyruns.create(root, tiny_prior)
    command = [sys.executable, "-m", "harness.cli", "watch", str(root)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    yield root, ids, server.stdout.readline().strip(), server
    server.kill()
    server.wait()


def test_it_follows_a_sweep_without_reloading_and_ends_cleanly(
    watched, tiny_prior: Path, open_page: OpenPage
):
    root, ids, address, server = watched
    page = open_page(address)
    assert "token" not in page.url
    expect(page.locator("#mark")).to_have_text("RANDOM WEIGHTS")
    expect(page.locator("#summary")).to_contain_text("3 waiting")
    expect(page.locator("#numbers")).to_contain_text("harness report")
    page.evaluate("window.stayed = true")
    page.locator("#gallery").scroll_into_view_if_needed()
    page.mouse.wheel(0, 2000)
    tiles = page.locator(".tile")
    expect(tiles).to_have_count(3)
    expect(tiles.first).to_contain_text("not started")

    sweep = threading.Thread(target=tinyruns.run, args=(root, ids[:2]))
    sweep.start()
    expect(page.locator("#summary")).to_contain_text("2 done", timeout=30_000)
    sweep.join()
    expect(page.locator("#summary")).to_contain_text("1 waiting")
    expect(page.locator('.tile[data-status="done"] img')).to_have_count(2)
    image = page.locator('.tile[data-status="done"] img').first
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 32
    tinyruns.run(root, ids[2:])
    [late] = tinyruns.create(root, tiny_prior, "uniform_sds", runs=1)
    expect(page.locator("#summary")).to_contain_text("4 runs of 2 methods", timeout=10_000)
    assert page.evaluate("window.stayed"), "never reloaded"

    page.locator(f'.shot[data-run="{ids[0]}"]').click()
    expect(page.locator("canvas")).to_have_count(3)
    expect(page.get_by_role("heading", name="While it ran")).to_be_visible()
    page.goto(page.url.split("run.html")[0] + f"run.html#{late}")
    expect(page.locator(".lead")).to_contain_text("not started")
    tinyruns.run(root, [late])
    expect(page.locator(".lead")).to_contain_text("done", timeout=10_000)

    server.send_signal(signal.SIGINT)
    assert server.wait(10) == 0
    open_page.expected += ["ERR_CONNECTION_REFUSED", "ERR_EMPTY_RESPONSE"]  # type: ignore[attr-defined]
    expect(page.locator("html.lost")).to_be_attached(timeout=10_000)


def test_strangers_are_refused(watched):
    _, ids, address, _ = watched
    base, _, token = address.partition("/?token=")
    assert len(token) > 30
    for path in (
        "/",
        "/run.html",
        "/live.json",
        "/data/runs.js",
        f"/media/{ids[0]}/thumb.webp",
        "/assets/base.js",
    ):
        assert httpx.get(base + path).status_code == 403, "no token, no page"
    assert httpx.get(f"{base}/?token={token[:-1]}x").status_code == 403
    assert httpx.get(address, headers={"host": "attacker.example"}).status_code == 400, "DNS rebinding"
    assert httpx.get(f"{base}/", headers={"cookie": f"watch-{base.rpartition(':')[2]}=x"}).status_code == 403
    with httpx.Client(base_url=base) as friend:
        let_in = friend.get(f"/?token={token}")
        assert (let_in.status_code, let_in.headers["location"]) == (303, "/")
        cookie = let_in.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie
        shell = friend.get("/")
        assert shell.status_code == 200 and token not in shell.text
        policy = shell.headers["content-security-policy"]
        assert (
            "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        )
        assert friend.post("/").status_code == 405
        for path in ("/assets/..%2fpages.py", "/data/run/..%2f..%2fx.js", f"/media/{ids[0]}/..%2fspec.json"):
            assert friend.get(path).status_code == 404
