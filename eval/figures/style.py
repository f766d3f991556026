"""How every figure looks: sizes, fonts, and one fixed colour, marker and line per method."""

from __future__ import annotations

import math
import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from eval.figures.fonts import fallbacks
from eval.figures.looks import Look
from harness.config import UserError, nearest
from harness.text import plain

if TYPE_CHECKING:
    from eval.runs import Runs

COLUMN, PAGE = 3.3, 6.8  # inches: a column and the full width of a paper's page
TEXT, SMALL, FINE = 8.0, 7.0, 6.0  # points
FOOT_LINE = 0.115  # inches
INK, GREY, FAINT = "0.1", "0.45", "0.9"

RC: Any = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same glyphs on every machine
    "font.size": TEXT,
    "axes.titlesize": TEXT,
    "axes.labelsize": TEXT,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "legend.handlelength": 2.0,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "text.parse_math": False,  # a dollar of a prompt is a dollar
    "lines.linewidth": 1.5,
    "lines.markersize": 4.0,
    "errorbar.capsize": 2.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.05,
    "image.interpolation": "none",
    "image.cmap": "cividis",  # even in lightness, and made for colour-blind readers
    "figure.dpi": 300,  # of the arranging too: letters are a little wider at fewer dots
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Choices:
    """What a reader asks of all figures: a chart's width in inches, the font, whether it says at its foot
    what it rests on, and what methods are called in it."""

    width: float | None = None
    font: str = ""
    footnote: bool = True
    names: Mapping[str, str] = field(default_factory=dict)

    def shown(self, text: str) -> str:
        """A text with methods called as asked; their variants and settings stay."""
        for name in sorted(self.names, key=len, reverse=True):
            text = re.sub(rf"(?<![\w.]){re.escape(name)}(?!\w)", lambda _, to=self.names[name]: to, text)
        return text


# As their authors write them.
NAMES = {
    "uniform_sds": "SDS", "linear_decay": "Linear decay", "tp_sds": "TP-SDS", "csd": "CSD", "vsd": "VSD",
    "nfsd": "NFSD", "sjc": "SJC", "ism": "ISM", "sdi": "SDI", "jsd": "JSD", "sctd": "SCTD", "ucm": "UCM",
    "dsd": "DSD", "asd": "ASD", "cfd": "CFD", "rfds": "RFDS", "rfds_rev": "RFDS-Rev", "hifa": "HiFA",
    "sds_bridge": "SDS-Bridge", "consistent3d": "Consistent3D", "annealed_range": "Annealed range",
    "curved_decay": "Curved decay", "scattered": "Scattered",
}  # fmt: skip
_choices: ContextVar[Choices] = ContextVar("choices")


def _asked() -> Choices:
    return _choices.get(Choices())


@contextmanager
def chosen(choices: Choices) -> Iterator[None]:
    """Figures are drawn and saved as asked inside it; UserError for a font that is not installed."""
    if choices.font:
        try:
            font_manager.findfont(choices.font, fallback_to_default=False)
        except ValueError:
            known = {entry.name for entry in font_manager.fontManager.ttflist}
            raise UserError(
                f"--font: '{choices.font}' is not installed{nearest(choices.font, known)}"
            ) from None
    token = _choices.set(choices)
    try:
        yield
    finally:
        _choices.reset(token)


@contextmanager
def style(texts: Iterable[str] = ()) -> Iterator[None]:
    """Drawing and saving inside it depends on this module alone, not on a user's matplotlibrc; and, where
    `texts` have characters that DejaVu Sans lacks, on the installed fonts that have them."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing")  # it is told once (fonts.boxes)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        own = [_asked().font] if _asked().font else []
        matplotlib.rcParams["font.family"] = [*own, *RC["font.family"], *map(_family, fallbacks(texts)[0])]
        yield


@cache
def _family(path: Path) -> str:
    """The name that matplotlib knows a font by."""
    font_manager.fontManager.addfont(path)
    return font_manager.FontProperties(fname=path).get_name()


class Sheet(Figure):
    """A figure that knows the runs it shows and says at its foot what its numbers rest on."""

    def __init__(self, width: float, height: float, *, mark: str = "", caption: str = "", **options: Any):
        """Inches; the caption's lines and the head's (`mark`) come out of `height`."""
        super().__init__(figsize=(width, height), **options)
        self.run_ids: list[str] = []
        self.caption = caption
        self.mark = mark
        lines = footnote(caption, width)
        self.foot = (0.04 + FOOT_LINE * len(lines)) / height
        if lines:
            left, bottom, text = 0.04 / width, 0.04 / height, "\n".join(lines)
            self.text(left, bottom, text, fontsize=FINE, color=GREY, va="bottom", linespacing=1.25)
        if mark:
            corner = {"ha": "right", "va": "top", "fontsize": SMALL, "fontweight": "bold"}
            self.text(1 - 0.04 / width, 1 - 0.03 / height, mark, color=GREY, **corner)
        engine = self.get_layout_engine()
        if engine is not None:
            engine.set(rect=(0.0, self.foot, 1.0, 1.0 - self.foot))  # type: ignore[call-arg]

    def shows(self, run_ids: Iterable[str]) -> Sheet:
        """Note runs that the figure was made from."""
        self.run_ids = sorted({*self.run_ids, *run_ids})
        return self

    def arranged(self) -> Sheet:
        """The axes in their final places, the same in every format that the figure is saved in; its texts
        without what no font can draw."""
        for text in self.findobj(Text):
            assert isinstance(text, Text)
            text.set_text(_asked().shown(plain(text.get_text(), lines=True)))
        engine = self.get_layout_engine()
        if engine is not None:
            engine.execute(self)
            self.set_layout_engine("none")
        return self


def footnote(caption: str, width: float) -> list[str]:
    """A caption's lines on a sheet so wide, `FOOT_LINE` inches each; none where no footnote is wanted."""
    return textwrap.wrap(caption, int(width * 21)) if _asked().footnote else []


def at_foot(caption: str, settings: str) -> str:
    """A caption with what the runs' stamp says of the methods' settings, if anything."""
    return f"{caption} {settings[0].upper()}{settings[1:]}." if settings else caption


def chart(width: float, height: float, **options: Any) -> Sheet:
    """A sheet whose axes arrange themselves."""
    return Sheet(_asked().width or width, height, layout="constrained", **options)


def chart_of(runs: Runs, width: float, height: float, caption: str) -> Sheet:
    """A chart of runs, with their mark, and their own settings at the end of the caption."""
    caption = at_foot(caption, runs.stamp.settings)
    return chart(width, height, mark=runs.stamp.mark, caption=caption)


def legend(sheet: Sheet, handles: Sequence[Line2D]) -> None:
    """One legend for all panels, above them and left of the corner with the mark, in as few rows as fit."""
    labels = [str(handle.get_label()) for handle in handles]
    columns = len(labels)
    while columns > 1 and _legend_width(labels, columns) > sheet.get_figwidth() - 0.1 * len(sheet.mark):
        columns -= 1
    sheet.legend(
        handles=list(handles), loc="outside upper left", ncols=columns, borderaxespad=0.1, borderpad=0.1
    )


def _legend_width(labels: Sequence[str], columns: int) -> float:
    """Inches, near enough: letters of the longest label of each column, its line and the gap beside it."""
    parts = np.array_split(np.array([len(label) for label in labels]), columns)
    return sum(0.058 * max(part) + 0.4 for part in parts)


def handle(label: str, look: Look, **options: Any) -> Line2D:
    """A legend's entry for a method."""
    return Line2D([], [], label=label, **look.draw() | options)


def few_ticks(axes: Axes) -> None:
    """At most five ticks an axis, so that they are readable at thumbnail size."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def power_of_ten(value: float, _: int = 0) -> str:
    """A tick of a logarithmic axis: `10⁻³`."""
    power = str(round(math.log10(value)))
    return "10" + power.translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
