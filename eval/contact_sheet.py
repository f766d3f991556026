"""Contact sheets: a row per prompt, a column per method, every seed, no view chosen for its looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SHOWN = 4  # azimuths of a cell, evenly spaced over the ring
PROMPTS_PER_PAGE = 24
LARGEST_TILE = 96
LABEL = 190  # width of the column of prompts
GAP = 10
PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (225, 225, 225)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
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
    return [_page(title, {p: cells[p] for p in prompts[i : i + PROMPTS_PER_PAGE]}, shown) for i in pages]


def _page(title: str, cells: Mapping[str, Mapping[str, Cell]], shown: Sequence[int]) -> Image.Image:
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    tile = _tile(cells)
    width = len(shown) * tile
    title_font, font, small = (ImageFont.load_default(size) for size in (17, 14, 12))
    heights = [max(tile, max(len(cell) for cell in row.values()) * tile) for row in cells.values()]
    total = LABEL + len(columns) * (width + GAP) + GAP
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    heading = _wrap(probe, title, title_font, total - 2 * GAP)
    top = GAP + 22 * len(heading) + 26
    page = Image.new("RGB", (total, top + sum(heights) + GAP * len(heights)), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((GAP, GAP), "\n".join(heading), fill=INK, font=title_font)
    for index, column in enumerate(columns):
        left = LABEL + index * (width + GAP)
        draw.text((left, top - 22), _wrap(draw, column, font, width)[0], fill=INK, font=font)
    y = top
    for (prompt, row), height in zip(cells.items(), heights, strict=True):
        lines = _wrap(draw, prompt, font, LABEL - 2 * GAP)
        draw.text((GAP, y), "\n".join(lines[: max(1, height // 18)]), fill=INK, font=font)
        for index, column in enumerate(columns):
            left = LABEL + index * (width + GAP)
            for line, views in enumerate(row.get(column, [])):
                corner = (left, y + line * tile)
                if isinstance(views, str):
                    draw.rectangle((*corner, left + width - 1, corner[1] + tile - 1), fill=FAINT)
                    reason = "\n".join(_wrap(draw, views, small, width - 8)[: tile // 15])
                    draw.text((left + 4, corner[1] + 4), reason, fill=INK, font=small)
                else:
                    for k, view in enumerate(shown):
                        picture = Image.fromarray(views[view])
                        if picture.size != (tile, tile):
                            picture = picture.resize((tile, tile), Image.Resampling.LANCZOS)
                        page.paste(picture, (left + k * tile, corner[1]))
        y += height + GAP
    return page


def _tile(cells: Mapping[str, Mapping[str, Cell]]) -> int:
    sizes = [
        views.shape[1]
        for row in cells.values()
        for cell in row.values()
        for views in cell
        if not isinstance(views, str)
    ]
    return min(max(sizes, default=64), LARGEST_TILE)


def _wrap(draw: ImageDraw.ImageDraw, text: str, font: Font, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and draw.textlength(longer, font=font) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
