"""The web application that raters see: a link, a consent text, one comparison per page, thanks.

Every page works without JavaScript. The state is the database's alone, so a rater can go on in another
browser, and a server that was killed goes on where it was. Nothing that is sent names a method or a run.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import math
import sqlite3
import time
from asyncio import wrap_future
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from eval import web
from eval.preference.design import check_unchanged, load_design
from eval.preference.media import n_frames
from eval.preference.store import CHOICES, DATABASE, OTHER, Choice, Rater, Refused, Store, Trial

PAGES = Path(__file__).parent / "pages"
COOKIE = "rater"
MAX_BODY = 8 * 1024  # bytes of a form; ours have a few hundred
SECONDS_PER_TRIAL = 20  # for the line that says how long it may take
HEADERS = web.HEADERS | {
    "content-security-policy": "default-src 'none'; img-src 'self' data:; style-src 'self'; "
    "script-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-robots-tag": "noindex, nofollow",
}
MAX_KEYS = 20_000  # of a limit
NO_LINK = "This page opens by the personal link that you were sent. Please check that it is complete."


class Limit:
    """A token bucket per key: `burst` at once, then `per_second`. In memory, for one process.

    Of more than `MAX_KEYS` keys the longest unused are forgotten.
    """

    def __init__(self, burst: float, per_second: float):
        self.burst, self.per_second = burst, per_second
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, key: str) -> bool:
        """Whether `key` may ask once more; that counts as asking."""
        now = time.monotonic()
        left, since = self._left.pop(key, (self.burst, now))
        left = min(self.burst, left + (now - since) * self.per_second)
        self._left[key] = (left - 1, now) if left >= 1 else (left, now)
        if len(self._left) > MAX_KEYS:
            self._left.popitem(last=False)
        return left >= 1


class Application:
    """The pages of one study; `asgi` is what a server runs. Raises UserError where `folder` is no study."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.design = load_design(folder)
        self.pairs = {pair.pair: pair for pair in self.design.pairs}
        self.frames = n_frames(folder / "media" / self.design.pairs[0].media["a"])
        self.store = Store(folder / DATABASE)
        check_unchanged(self.design, self.store.design(), folder)
        # Many raters may share an address, and a rater sends four requests a comparison. What is counted by
        # address is only what no rater does: asking with a link that does not exist.
        self.per_rater = Limit(burst=60, per_second=10)
        self.strangers = Limit(burst=30, per_second=0.5)
        self.templates = Environment(
            loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self.templates.globals["mark"] = self.design.mark  # the one thing of the design that every page shows
        files = {"/study.css": "text/css", "/study.js": "text/javascript"}
        texts = {p: self.templates.get_template(p[1:]).render(frames=self.frames) for p in files}
        # Their addresses change with what they say, so they can be kept for good.
        kept = {"cache-control": "max-age=31536000, immutable"}
        self.files = {path: Response(text, 200, kept, files[path]) for path, text in texts.items()}
        self.templates.globals["version"] = hashlib.sha256("".join(texts.values()).encode()).hexdigest()[:8]
        app = web.Guard(
            Starlette(
                routes=[
                    Route("/", self.page),
                    Route("/r/{token}", self.enter),
                    Route("/consent", self.consent, methods=["POST"]),
                    Route("/answer", self.answer, methods=["POST"]),
                    Route("/media/{position}/{name}", self.media),
                    *(Route(path, self.file) for path in files),
                ],
                exception_handlers={HTTPException: self.told, Refused: self.told, sqlite3.Error: self.told},
                lifespan=self._lifespan,
            )
        )
        self.asgi = web.Headers(app, HEADERS)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        self.store.close()

    # ---- who asks

    def _token(self, request: Request) -> str:
        return request.path_params.get("token") or request.cookies.get(COOKIE, "")

    def _rater(self, request: Request) -> Rater:
        """Who holds the link. A read of the local file takes less time than handing it to a thread."""
        token = self._token(request)
        rater = self.store.rater_of(token) if token else None
        if rater is None:
            allowed = self.strangers.allows(request.client.host if request.client else "")
            raise HTTPException(404, NO_LINK) if allowed else _too_often()
        if not self.per_rater.allows(rater.rater):
            raise _too_often()
        return rater

    def _key(self, request: Request, purpose: str) -> str:
        """Proof that a form or a picture's address came from this rater's own page."""
        return hmac.digest(self._token(request).encode(), purpose.encode(), hashlib.sha256).hex()[:32]

    # ---- pages

    async def enter(self, request: Request) -> Response:
        """A rater's link. It changes nothing: a mail program that looks at the link does no harm."""
        self._rater(request)
        response = RedirectResponse("/", 303)
        # Lax: the link may be opened from a mail, and no other site's form is sent with the cookie.
        secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, self._token(request), httponly=True, samesite="lax", secure=secure)
        return response

    async def page(self, request: Request) -> Response:
        """Where the rater stands: the consent text, the next comparison, or thanks."""
        rater = self._rater(request)
        trials = self.store.next_trials(rater.rater, 2)
        if not trials:
            return self._note(
                "Thank you", "You have finished. Your answers are stored, and nothing more is taken."
            )
        total = self.store.n_trials(rater.rater)
        if not rater.consented:
            minutes = max(1, round(total * SECONDS_PER_TRIAL / 60))
            return self._html(
                "consent.html",
                title=self.design.title,
                paragraphs=self.design.consent.split("\n\n"),
                total=total,
                minutes=minutes,
                key=self._key(request, "consent"),
            )
        self.store.show(rater.rater, trials[0].position)
        return self._trial(request, trials, total)

    def _trial(
        self, request: Request, trials: list[Trial], total: int, chosen: dict[str, str] | None = None
    ) -> Response:
        """The first of `trials`, and the next one's pictures ahead of time; `chosen` is what was answered of
        it where something is missing."""
        trial, *after = trials
        return self._html(
            "trial.html",
            200 if chosen is None else 400,
            prompt=self.pairs[trial.pair].prompt,
            questions=self.design.questions,
            choices=zip(CHOICES, ("Left", "Can’t tell", "Right"), strict=True),
            chosen=chosen or {},
            missing=chosen is not None,
            position=trial.position,
            total=total,
            frames=self.frames,
            key=self._key(request, f"answer {trial.position}"),
            pictures=self._pictures(request, trial),
            following=[url for later in after for url in self._pictures(request, later)],
        )

    def _pictures(self, request: Request, trial: Trial) -> list[str]:
        return [
            f"/media/{trial.position}/{self._key(request, f'{side} {trial.position}')}.webp"
            for side in ("left", "right")
        ]

    async def consent(self, request: Request) -> Response:
        """The rater agrees."""
        rater = self._rater(request)
        await self._form(request, "consent")
        await wrap_future(self.store.consent(rater.rater))
        return RedirectResponse("/", 303)

    async def answer(self, request: Request) -> Response:
        """The answers to one comparison: on disk before the redirect to the next is sent."""
        rater = self._rater(request)
        form = await self._form(request)
        position = _whole(form.get("position", ""))
        self._check_key(request, form, f"answer {position}")
        asked = [question.id for question in self.design.questions]
        chosen = {name: form[f"q.{name}"] for name in asked if form.get(f"q.{name}") in CHOICES}
        if len(chosen) < len(asked):
            trials = self.store.next_trials(rater.rater, 2)
            if not trials or trials[0].position != position:
                raise HTTPException(400, "An answer is missing.")
            total = self.store.n_trials(rater.rater)
            return self._trial(request, trials, total, chosen)
        choices = cast("dict[str, Choice]", chosen)
        await wrap_future(
            self.store.answer(rater.rater, position, choices, _seconds(form.get("seconds", "")))
        )
        return RedirectResponse("/", 303)

    async def media(self, request: Request) -> Response:
        """A picture of a comparison that the rater's page showed or is about to show.

        Its address tells position and nothing else; a repeat has another than its first showing.
        """
        rater = self._rater(request)
        position, name = _whole(request.path_params["position"]), request.path_params["name"]
        trial = self.store.trial(rater.rater, position)
        sides = (
            [f"/media/{position}/{name}" == url for url in self._pictures(request, trial)] if trial else []
        )
        if trial is None or not any(sides):
            raise HTTPException(404, "There is nothing here.")
        side = trial.left if sides[0] else OTHER[trial.left]
        path = self.folder / "media" / self.pairs[trial.pair].media[side]
        data = await run_in_threadpool(path.read_bytes)
        # No other rater has this address, so a browser that several use mixes nothing up.
        return Response(data, media_type="image/webp", headers={"cache-control": "private, max-age=3600"})

    async def file(self, request: Request) -> Response:
        """The style and the script."""
        return self.files[request.url.path]

    async def told(self, request: Request, error: Exception) -> Response:
        """What went wrong, on a plain page."""
        if isinstance(error, Refused):
            return self._note("Not taken", str(error), 409, again=True)
        if isinstance(error, HTTPException):
            again = error.status_code not in (404, 405)
            return self._note("Sorry", str(error.detail), error.status_code, again, error.headers)
        print(f"nothing was stored, {error}", flush=True)  # the address may hold a rater's token
        return self._note(
            "Sorry", "Your answer could not be stored. Please go on and answer again.", 503, True
        )

    # ---- parts

    async def _form(self, request: Request, purpose: str = "") -> dict[str, str]:
        """The last value of every field of a form; HTTPException for one too large or not from our page."""
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise HTTPException(413, "That was too much.")
        try:
            fields = parse_qs(body.decode(), max_num_fields=100)
        except ValueError:
            raise HTTPException(400, "That is no form of this page.") from None
        form = {name: values[-1] for name, values in fields.items()}
        if purpose:
            self._check_key(request, form, purpose)
        return form

    def _check_key(self, request: Request, form: dict[str, str], purpose: str) -> None:
        if not hmac.compare_digest(form.get("key", "").encode(), self._key(request, purpose).encode()):
            raise HTTPException(403, "That did not come from the page that was shown to you.")

    def _html(self, template: str, status: int = 200, **values: Any) -> Response:
        return HTMLResponse(self.templates.get_template(template).render(**values), status)

    def _note(
        self, heading: str, text: str, status: int = 200, again: bool = False, headers: Any = None
    ) -> Response:
        response = self._html("note.html", status, heading=heading, text=text, again=again)
        response.headers.update(headers or {})
        return response


def _too_often() -> HTTPException:
    return HTTPException(429, "That was too fast. Please wait a moment.", {"retry-after": "5"})


def _whole(text: str) -> int:
    return int(text) if text.isdecimal() and text.isascii() and len(text) < 10 else -1


def _seconds(text: str) -> float:
    """What the page measured; infinity, which the store cuts, where it measured nothing."""
    try:
        seconds = float(text)
    except ValueError:
        return math.inf
    return seconds if seconds >= 0 else math.inf


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(folder: Path, host: str, port: int, ready: Callable[[str], Any] = print) -> None:
    """Serve the study until Ctrl-C or SIGTERM; `ready` gets its address. Port 0 is any free one.

    Raises UserError where the address cannot be had.
    """
    web.serve(Application(folder).asgi, host, port, ready)
