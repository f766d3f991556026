"""Fonts for texts of others: what our own font lacks is looked for among those that are installed."""

from __future__ import annotations

import struct
import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path

UPRIGHT = ("Regular", "Book", "Normal", "Roman", "Medium")


@cache
def own() -> Path:
    """DejaVu Sans as it comes with matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew, symbols."""
    import matplotlib

    return Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@cache
def characters(path: Path) -> frozenset[str]:
    """What a font can draw; nothing where it is no font that grows with its size (colour bitmaps)."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(str(path))
        return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()
    except (OSError, RuntimeError, ValueError):
        return frozenset()


def fallbacks(texts: Iterable[str]) -> tuple[list[Path], str]:
    """Fonts that have what DejaVu Sans lacks of `texts`, those that have most of it first, and the characters
    that no installed font has. Nothing is looked for where nothing lacks."""
    seen = {char for text in texts for char in text if _is_drawn(char)}
    return _search(frozenset(seen - characters(own())))


def boxes(missing: str) -> str:
    """One line on characters that no font has."""
    shown = " ".join(missing[:8]) + (" …" if len(missing) > 8 else "")
    return (
        f"no installed font has {shown} ({len(missing)} characters): boxes stand for them; "
        "a font package, such as Debian's fonts-wqy-zenhei or fonts-symbola, has most"
    )


def _is_drawn(char: str) -> bool:
    """Whether a font needs a picture of it: not of blanks, joiners, marks that choose a variant."""
    is_variant = "\ufe00" <= char <= "\ufe0f"
    return not (char.isspace() or is_variant or unicodedata.category(char) in ("Cc", "Cf", "Cs"))


@cache
def _search(lacking: frozenset[str]) -> tuple[list[Path], str]:
    found: list[Path] = []
    candidates = _installed() if lacking else ()
    while lacking:
        best = max(candidates, key=lambda path: len(lacking & characters(path)), default=None)
        if best is None or not lacking & characters(best):
            break
        found.append(best)
        lacking -= characters(best)
    return found, "".join(sorted(lacking))


@cache
def _installed() -> tuple[Path, ...]:
    """Fonts whose outlines a PDF can keep as they are, upright ones first."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    def key(path: Path) -> tuple[bool, str]:
        return FT2Font(str(path)).style_name not in UPRIGHT, str(path)

    paths = (Path(path) for path in font_manager.findSystemFonts())
    return tuple(sorted((path for path in paths if _is_truetype(path) and characters(path)), key=key))


def _is_truetype(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            if file.read(4) == b"ttcf":  # a collection: its first font is the one that is used
                file.seek(12)
                file.seek(struct.unpack(">I", file.read(4))[0])
            else:
                file.seek(0)
            return file.read(4) in (b"\x00\x01\x00\x00", b"true")
    except (OSError, struct.error):
        return False
