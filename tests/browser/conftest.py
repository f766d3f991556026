"""A real Chromium for the tests of what people look at. A page that complains fails its test."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
QUIET = (  # it looks for nobody on the network
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
OpenPage = Callable[..., Page]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder needs the browser."""
    for item in items:
        if "tests/browser/" in item.path.as_posix():
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The machine's own Chromium, headless."""
    path = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if path is None:
        reason = "no Chromium; `make browser-test` installs Debian's"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[OpenPage]:
    """open_page(url, **context options) → a page of a browser of its own: no cookie is shared with another's.

    At the end of the test every console error, uncaught exception and request to anywhere but the page's own
    origin is a failure; `open_page.expected` takes parts of complaints that the test means to cause.
    """
    with _pages(chromium) as opener:
        yield opener


@contextmanager
def _pages(browser: Browser) -> Iterator[Any]:
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def opener(url: str, **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        origin = "/".join(url.split("/")[:3])
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: _stranger(asked.url, origin, complaints))
        page.goto(url)
        return page

    opener.expected = []  # type: ignore[attr-defined]
    yield opener
    for context in contexts:
        context.close()
    left = [told for told in complaints if not any(part in told for part in opener.expected)]  # type: ignore[attr-defined]
    assert not left, left


def _stranger(url: str, origin: str, complaints: list[str]) -> None:
    if not url.startswith((origin, "data:", "blob:")):
        complaints.append(f"request to a stranger: {url}")
