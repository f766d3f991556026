"""Contact sheets: a row per prompt, a column per method, every seed, no view chosen for its looks."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from eval.figures.fonts import characters, fallbacks, own
from harness.text import plain

SHOWN = 4  # azimuths of a cell, evenly spaced over the ring
PROMPTS_PER_PAGE = 24
LARGEST_TILE = 96
LABEL = 190  # width of the column of prompts
LONGEST = 500  # letters of a word without a blank; the rest of it is left out
GAP = 10
PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (225, 225, 225)

Cell = Sequence[np.ndarray | str]  # one entry per seed: its views [V, H, W, 3] uint8, or why there are none


def shown_views(azimuths: int) -> list[int]:
    """Indices of the views that a cell shows, evenly spaced over the ring from the front on."""
    count = min(SHOWN, azimuths)
    return [k * azimuths // count for k in range(count)]


def contact_sheets(title: str, cells: Mapping[str, Mapping[str, Cell]], azimuths: int) -> list[Image.Image]:
    """Pages of at most 24 prompts; `cells` maps prompt → column → cell.

    A cell shows `SHOWN` of the `azimuths` first views, left to right, one line per seed.
    """
    prompts = list(cells)
    shown = shown_views(azimuths)
    pages = range(0, len(prompts), PROMPTS_PER_PAGE)
    fonts = [own(), *fallbacks(texts(title, cells))[0]]
    return [
        _page(title, {p: cells[p] for p in prompts[i : i + PROMPTS_PER_PAGE]}, shown, fonts) for i in pages
    ]


def texts(title: str, cells: Mapping[str, Mapping[str, Cell]]) -> Iterator[str]:
    """Everything that is written on the sheets."""
    yield title
    for prompt, row in cells.items():
        yield from (prompt, *row)
        yield from (views for cell in row.values() for views in cell if isinstance(views, str))


class Pen:
    """Writes in one size, each character in the first font that has it; the first is Pillow's own."""

    def __init__(self, draw: ImageDraw.ImageDraw, size: int, others: Sequence[Path]):
        self.draw = draw
        self.fonts = [ImageFont.load_default(size), *(ImageFont.truetype(path, size) for path in others)]
        self.has = [_pillows(), *map(characters, others)]
        self.ascent = max(font.getmetrics()[0] for font in self.fonts if hasattr(font, "getmetrics"))

    def _parts(self, text: str) -> Iterator[tuple[int, str]]:
        """Runs of characters and the number of their font; what none has goes with DejaVu's box."""

        def font(char: str) -> int:
            return next((i for i, has in enumerate(self.has) if char in has), min(1, len(self.has) - 1))

        for index, run in groupby(text, font):
            yield index, "".join(run)

    def width(self, text: str) -> float:
        """Pixels of one line."""
        return sum(self.draw.textlength(run, font=self.fonts[i]) for i, run in self._parts(plain(text)))

    def write(self, corner: tuple[float, float], lines: Iterable[str], spacing: int) -> None:
        """Lines, one below the other from the upper left corner on."""
        x, y = corner
        for line in lines:
            at = x
            for i, run in self._parts(plain(line)):
                baseline = (at, y + self.ascent)
                self.draw.text(baseline, run, fill=INK, font=self.fonts[i], anchor="ls")
                at += self.draw.textlength(run, font=self.fonts[i])
            y += spacing

    def wrap(self, text: str, width: int) -> list[str]:
        """Lines of at most so many pixels, broken at blanks, and anywhere in a word that is longer."""
        lines = [""]
        for word in plain(text).split():
            longer = f"{lines[-1]} {word}".strip()
            if self.width(longer) <= width:
                lines[-1] = longer
                continue
            parts = [word] if self.width(word) <= width else list(word[:LONGEST])
            lines += [""] if lines[-1] else []
            for part in parts:
                if lines[-1] and self.width(lines[-1] + part) > width:
                    lines.append("")
                lines[-1] += part
        return lines


@cache
def _pillows() -> frozenset[str]:
    """What the font has that comes with Pillow: little more than ASCII."""
    from matplotlib.ft2font import FT2Font

    font = ImageFont.load_default(12)
    path = getattr(font, "path", None)
    return frozenset(map(chr, FT2Font(path).get_charmap())) if isinstance(path, io.BytesIO) else frozenset()


def _page(
    title: str, cells: Mapping[str, Mapping[str, Cell]], shown: Sequence[int], fonts: Sequence[Path]
) -> Image.Image:
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    tile = _tile(cells)
    width = len(shown) * tile
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    heights = [max(tile, max(len(cell) for cell in row.values()) * tile) for row in cells.values()]
    total = LABEL + len(columns) * (width + GAP) + GAP
    heading = Pen(probe, 17, fonts).wrap(title, total - 2 * GAP)
    top = GAP + 22 * len(heading) + 26
    page = Image.new("RGB", (total, top + sum(heights) + GAP * len(heights)), PAPER)
    draw = ImageDraw.Draw(page)
    large, pen, small = (Pen(draw, size, fonts) for size in (17, 14, 12))
    large.write((GAP, GAP), heading, 22)
    for index, column in enumerate(columns):
        left = LABEL + index * (width + GAP)
        pen.write((left, top - 22), pen.wrap(column, width)[:1], 18)
    y = top
    for (prompt, row), height in zip(cells.items(), heights, strict=True):
        pen.write((GAP, y), pen.wrap(prompt, LABEL - 2 * GAP)[: max(1, height // 18)], 18)
        for index, column in enumerate(columns):
            left = LABEL + index * (width + GAP)
            for line, views in enumerate(row.get(column, [])):
                corner = (left, y + line * tile)
                if isinstance(views, str):
                    draw.rectangle((*corner, left + width - 1, corner[1] + tile - 1), fill=FAINT)
                    small.write((left + 4, corner[1] + 4), small.wrap(views, width - 8)[: tile // 15], 15)
                else:
                    for k, view in enumerate(shown):
                        picture = Image.fromarray(views[view])
                        if picture.size != (tile, tile):
                            picture = picture.resize((tile, tile), Image.Resampling.LANCZOS)
                        page.paste(picture, (left + k * tile, corner[1]))
        y += height + GAP
    return page


def _tile(cells: Mapping[str, Mapping[str, Cell]]) -> int:
    found = (views for row in cells.values() for cell in row.values() for views in cell)
    sizes = (views.shape[1] for views in found if not isinstance(views, str))
    return min(max(sizes, default=64), LARGEST_TILE)
