"""The pages: one frame around three bodies, filled by the scripts of `assets/` from data.

Scripts are classic ones, because a browser loads no module from a disk. The policy lets a page run and show
files of its own folder and nothing else; Trusted Types refuse text as HTML, whatever a prompt holds.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

HERE = Path(__file__).parent
ASSETS = HERE / "assets"
PAGES = {"index.html": "Overview", "compare.html": "Compare", "run.html": "Run"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; require-trusted-types-for 'script'; trusted-types harness"
)
LIVE_POLICY = POLICY + "; connect-src 'self'; frame-ancestors 'none'"


@lru_cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def page(name: str, runs: str, live: bool) -> bytes:
    """One of `PAGES` for the runs called so; a live one takes its policy from the header."""
    template = _templates().get_template(name)
    policy = "" if live else POLICY
    return template.render(runs=runs, page=name, pages=PAGES, policy=policy, live=live).encode()
