"""The text of a prompt: what makes two prompts the same."""

from __future__ import annotations

from functools import lru_cache
from unicodedata import normalize

from harness.home import PARTS

SUITES = PARTS / "prompts"
COCO = SUITES / "coco.txt"  # over COCO's categories, in the toy world's language


@lru_cache(maxsize=4096)
def normalised(prompt: str) -> str:
    """The prompt less what does not count: case, the form of letters (Unicode NFKC), outer blanks, dots and
    commas, the width of inner blanks. Two prompts equal under it are the same prompt; idempotent.
    """
    # A folded letter may fall apart into another order of marks, so the form is made again.
    text = normalize("NFKC", normalize("NFKC", prompt).casefold())
    return " ".join(text.split()).strip(" .,")
