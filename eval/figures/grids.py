"""Grids of renders: over steps (DreamTime, fig. 7), seeds (fig. 10), prompts × methods (fig. 11, 12, 14)."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.patches import Rectangle

from eval.figures.style import (
    COLUMN,
    FAINT,
    FINE,
    FOOT_LINE,
    GREY,
    PAGE,
    SMALL,
    TEXT,
    Sheet,
    at_foot,
    footnote,
)
from eval.runs import Runs
from harness.config import UserError
from harness.records.stamp import RANDOM

STEPS, SEEDS, PROMPTS = 8, 8, 6  # at most that many are shown
BESIDE = 8  # columns of that many methods at most can be told by their headings
LARGEST, TALLEST = 1.0, 8.0  # inches: side of a picture, all rows together
LABELS = (0.85, 1.3, 1.8)  # inches for the names of rows: the first in which none is taller than its row
GAP = 0.03

Cell = np.ndarray | str  # pictures to stand side by side, [n, H, W, 3] uint8, or why there are none


def steps_grid(runs: Runs) -> Sheet:
    """Front views: a row per method, a column per evaluated step; or per N where runs have their own N.

    Prompt and seed are the first of the runs. Steps are evenly spaced, the last one last.
    """
    choice = "The study's first prompt and first seed."
    prompt, seed = runs.prompts[0], runs.seeds[0]
    own_n = len(runs.totals) > 1
    found = {
        (runs.labels[run.run_id], run.total): run for run in runs if (run.prompt, run.seed) == (prompt, seed)
    }
    if not found:
        raise UserError(f"no run of '{prompt}' with seed {seed} has ended")
    columns = runs.totals if own_n else sorted({step for run in found.values() for step in run.view_steps})
    if not columns:
        raise UserError(f"no run of '{prompt}' with seed {seed} has stored views")
    columns = columns[:: -math.ceil(len(columns) / STEPS)][::-1]
    found = {place: run for place, run in found.items() if not own_n or run.total in columns}
    cells = {
        (method, str(step)): run.shown(step, [0])
        for (method, total), run in found.items()
        for step in ([total] if own_n else columns)
    }
    title = f"“{prompt}”, seed {seed}{_front(runs)}" + ", last step of separate runs" * own_n
    heads, corner = [str(column) for column in columns], "N" if own_n else "step"
    sheet = _grid(runs, title, runs.methods, heads, cells, corner, choice)
    return sheet.shows(run.run_id for run in found.values())


def seeds_grid(runs: Runs) -> Sheet:
    """Front views at the last step of one N (`_one_total`): a row per method, a column per seed.

    The prompt is the runs' first. Raises UserError for fewer than two seeds.
    """
    choice, prompt, (names, step) = "The study's first prompt.", runs.prompts[0], _one_total(runs)
    found = {
        (name, run.seed): run
        for run in runs
        if run.prompt == prompt and (name := names.get((runs.labels[run.run_id], run.total)))
    }
    seeds = sorted({seed for _, seed in found})
    if len(seeds) < 2:
        raise UserError(
            f"a grid of seeds needs two seeds or more of '{prompt}', these runs have {len(seeds)}"
        )
    seeds = seeds[:SEEDS]
    found = {place: run for place, run in found.items() if run.seed in seeds}
    cells = {(method, str(seed)): run.shown(run.total, [0]) for (method, seed), run in found.items()}
    title = f"“{prompt}”{_front(runs)}, {step}"
    sheet = _grid(runs, title, [*names.values()], [str(seed) for seed in seeds], cells, "seed", choice)
    return sheet.shows(run.run_id for run in found.values())


def methods_grid(runs: Runs) -> Sheet:
    """The last step of one N (`_one_total`) from the front: a row per prompt, a column per method.

    Also from 90° where there are four azimuths and at most five columns; many methods are rows instead.
    Prompts are evenly spaced in the suite's order; ground truth comes first where it exists.
    """
    choice = "Prompts evenly spaced in the suite's order. The first seed."
    seed, (names, step) = runs.seeds[0], _one_total(runs)
    found = {
        (run.prompt, name): run
        for run in runs
        if run.seed == seed and (name := names.get((runs.labels[run.run_id], run.total)))
    }
    if not found:
        raise UserError(f"no run of {step} with seed {seed} has ended")
    prompts = [prompt for prompt in runs.prompts if any(key[0] == prompt for key in found)]
    prompts = [prompts[i] for i in np.unique(np.linspace(0, len(prompts) - 1, PROMPTS).round().astype(int))]
    found = {place: run for place, run in found.items() if run.prompt in prompts}
    columns = [*["ground truth"] * bool(runs.truth), *names.values()]
    azimuths = runs[0].config.views.azimuths
    views = [0, round(azimuths / 4)] if azimuths >= 4 and len(columns) <= 5 else [0]
    cells = {place: run.shown(run.total, views) for place, run in found.items()}
    if runs.truth:
        cells |= {(prompt, "ground truth"): runs.truth[prompt][views] for prompt in prompts}
    angles = " and ".join(f"{360 * view / azimuths:g}°" for view in views)
    title = f"{step}, seed {seed}" + f", azimuth {angles}" * (azimuths > 1)
    rows = prompts
    if len(columns) > BESIDE + 1:
        rows, columns = columns, prompts
        cells = {(method, prompt): cell for (prompt, method), cell in cells.items()}
    sheet = _grid(runs, title, rows, columns, cells, "", choice, tiles=len(views))
    return sheet.shows(run.run_id for run in found.values())


def wrapped(text: str, letters: float) -> list[str]:
    """Lines of at most so many letters, broken at spaces and after `: , @`, else after `_` and between the
    wide letters of East Asia, which count twice, else too long, up to twice as long."""
    lines = [""]
    text = re.sub(rf"\S{{{max(1, int(2 * letters))}}}(?=\S)", "\\g<0>\u200b", text)
    words = re.split(r"(?<=[\s:,@])", text)
    for part in (
        part for word in words for part in ([word] if _letters(word) <= letters else re.split(_BREAKS, word))
    ):
        if lines[-1] and _letters(lines[-1] + part.rstrip()) > letters:
            lines.append("")
        lines[-1] += part
    return [line.replace("\u200b", "").rstrip() for line in lines]


_WIDE = "\u2e80-\ud7ff\uf900-\ufaff\uff01-\uff60\U0001f300-\U0001faff\U00020000-\U0003ffff"
_BREAKS = f"(?<=_)|(?<=\u200b)|(?<=[{_WIDE}])"


def _letters(text: str) -> int:
    return sum(1 + (unicodedata.east_asian_width(char) in "WF") for char in text)


def _front(runs: Runs) -> str:
    """An image has no front."""
    return ", front view" if runs[0].config.views.azimuths > 1 else ""


def _one_total(runs: Runs) -> tuple[dict[tuple[str, int], str], str]:
    """The names of rows by method and N, and the step that they show: of each method the N that most have,
    the largest of those, or, as its name says, the largest of its own."""
    rows = {(runs.labels[run.run_id], run.total) for run in runs}
    common = max(runs.totals, key=lambda total: (sum(n == total for _, n in rows), total))
    names = {}
    for method in runs.methods:
        own = max((n for name, n in rows if name == method), key=lambda n: (n == common, n))
        names[method, own] = method if own == common else f"{method}, step {own}"
    return names, f"step {common}"


def _grid(
    runs: Runs,
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[str, str], Cell],
    corner: str,
    choice: str,
    tiles: int = 1,
) -> Sheet:
    """Pictures in rows and columns; `cells` by the names of both, `corner` says what the columns are, a cell
    holds `tiles` pictures."""
    for label in LABELS:
        room = (PAGE - label) / len(columns) - 2 * GAP
        side = min(LARGEST, room / tiles, TALLEST / len(rows) - GAP)
        if max(len(wrapped(row, label / 0.058)) for row in rows) * 0.115 <= side + GAP:
            break
    width = max(COLUMN, label + len(columns) * (side * tiles + 2 * GAP))
    headings = [wrapped(name, (side * tiles + 2 * GAP) / 0.058) for name in columns]
    # A long mark in the corner leaves the title less than a line.
    title_lines = (
        wrapped(title, (width - 0.1 * len(RANDOM)) / 0.068) if runs.stamp.mark == RANDOM else [title]
    )
    head = 0.24 + 0.13 * (len(title_lines) - 1) + 0.13 * max(map(len, headings))
    caption = at_foot(f"Prior {', '.join(runs.stamp.priors)}. {choice}", runs.stamp.settings)
    foot = 0.1 + FOOT_LINE * len(footnote(caption, width))
    height = head + len(rows) * (side + GAP) + foot
    sheet = Sheet(width, height, mark=runs.stamp.mark, caption=caption)
    sheet.text(
        0.04 / width, 1 - 0.03 / height, "\n".join(title_lines), fontsize=TEXT, va="top", linespacing=1.1
    )
    sheet.text(0.04 / width, 1 - (head - 0.03) / height, corner, fontsize=SMALL, va="bottom", color=GREY)
    for y, row in enumerate(rows):
        top = head + y * (side + GAP)
        text = "\n".join(wrapped(row, label / 0.058))
        sheet.text(
            0.04 / width, 1 - (top + side / 2) / height, text, fontsize=SMALL, va="center", linespacing=1.1
        )
        for x, (column, heading) in enumerate(zip(columns, headings, strict=True)):
            left = label + x * (side * tiles + 2 * GAP)
            if y == 0:
                middle = (left + side * tiles / 2) / width
                sheet.text(
                    middle, 1 - (head - 0.03) / height, "\n".join(heading), fontsize=SMALL, ha="center",
                    va="bottom", linespacing=1.1,
                )  # fmt: skip
            box = (left / width, 1 - (top + side) / height, side * tiles / width, side / height)
            axes = sheet.add_axes(box)
            axes.set_axis_off()
            content = cells.get((row, column), "no run")
            if isinstance(content, str):
                axes.add_patch(Rectangle((0, 0), 1, 1, facecolor=FAINT, linewidth=0))
                reason = "\n".join(wrapped(content, side * tiles / 0.052))
                axes.text(0.5, 0.5, reason, fontsize=FINE, color=GREY, ha="center", va="center")
            else:
                axes.imshow(np.concatenate(list(content), axis=1), aspect="auto")
    return sheet
