"""A table of results and its spellings: terminal, Markdown, csv and LaTeX. No torch."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import rich.console
import rich.table
from rich.cells import cell_len

from eval.statistics.intervals import Interval
from harness.config import UserError
from harness.console import Console
from harness.records.files import make_folder, write_bytes
from harness.text import plain

if TYPE_CHECKING:
    import pandas as pd


LONG = 24  # characters: longer ones are texts, which may break between words


class Stamp(Protocol):
    """What every number of a table rests on."""

    @property
    def mark(self) -> str:
        """TOY, RANDOM or "" for a real prior's."""
        ...

    def line(self, metrics: Sequence[str] = ()) -> str:
        """One line for a caption, with the versions of the metrics that it shows."""
        ...

    def fields(self, metrics: Sequence[str]) -> dict[str, str | int]:
        """The same as the columns that each line of a csv ends in."""
        ...


@dataclass(frozen=True)
class Number:
    """A value with its interval, and how it is written; nan ends mean that there is no interval."""

    value: float
    low: float = float("nan")
    high: float = float("nan")
    scale: float = 1.0
    digits: int = 1
    sign: bool = False

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "–"
        text = self._one(self.value)
        if math.isnan(self.low) and math.isnan(self.high):
            return text
        return f"{text} [{self._one(self.low)}, {self._one(self.high)}]"

    def _one(self, x: float) -> str:
        if math.isnan(x):
            return "–"
        if math.isinf(x):
            return "∞" if x > 0 else "−∞"
        x = round(x * self.scale, self.digits) + 0.0  # no "-0.0"
        return f"{x:{'+' if self.sign else ''}.{self.digits}f}"


def percent(interval: Interval, sign: bool = False) -> Number:
    """A share, in per cent."""
    return Number(interval.value, interval.low, interval.high, scale=100.0, sign=sign)


def number(interval: Interval, digits: int = 2, sign: bool = False) -> Number:
    """A plain number."""
    return Number(interval.value, interval.low, interval.high, digits=digits, sign=sign)


Cell = str | int | Number


@dataclass(frozen=True)
class Table:
    """One block of results; `name` is its file's, `metrics` what it shows, for its stamp. The first column
    names the rows.

    A table without metrics holds other people's figures: it never carries the stamp of these runs.
    """

    name: str
    metrics: Sequence[str]
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.name}: {len(row)} cells for {len(self.columns)} columns: {row}")


def _stamp(table: Table, stamp: Stamp | None) -> str:
    return stamp.line(table.metrics) if stamp and table.metrics else ""


def terminal(table: Table, stamp: Stamp | None, width: int) -> rich.console.Group:
    """The table as it is printed, in so many characters; without metrics it has no stamp.

    An interval goes on a line of its own. Columns that are alike in all rows, and no measurement, are told
    beneath; those that do not fit beside each other go into blocks, each with the names of the rows.
    """
    cells = [
        [str(c).replace(" [", "\n[") if isinstance(c, Number) else str(c) for c in row] for row in table.rows
    ]
    found = {index: _values(cells, index) for index in range(1, len(table.columns))}
    alike = {
        index: next(iter(values))
        for index, values in found.items()
        if len(cells) > 1 and len(values) == 1 and "\n[" not in next(iter(values))
    }
    apart = [index for index, values in found.items() if values and index not in alike]
    told = " · ".join(f"{table.columns[index]} {value}" for index, value in alike.items())
    empty = " · ".join(table.columns[index] for index, values in found.items() if not values)
    beneath = [
        f"in all rows: {told}" * bool(told),
        f"without values: {empty}" * bool(empty),
        _stamp(table, stamp),
    ]
    blocks = [_block(table, cells, block, width) for block in _blocks(table, cells, apart, width)]
    return rich.console.Group(table.title, *blocks, *filter(None, beneath))


def _values(cells: Sequence[Sequence[str]], index: int) -> set[str]:
    """What stands in a column where something does."""
    return {row[index] for row in cells} - {"–", ""}


def _needs(table: Table, cells: Sequence[Sequence[str]], index: int) -> int:
    """Characters that a column needs for no word to be broken; long texts are content with fewer."""
    longest = max((cell_len(line) for row in cells for line in row[index].splitlines()), default=1)
    head = max(map(cell_len, table.columns[index].split()), default=1)
    return max(head, min(longest, LONG) if index else longest)


def _blocks(
    table: Table, cells: Sequence[Sequence[str]], columns: Sequence[int], width: int
) -> list[list[int]]:
    """Columns that stand beside each other after that of the rows' names."""
    names = min(_needs(table, cells, 0), width // 2) + 4
    blocks: list[list[int]] = [[]]
    for index in columns:
        own = sum(_needs(table, cells, each) + 3 for each in [*blocks[-1], index])
        if blocks[-1] and names + own > width:
            blocks.append([])
        blocks[-1].append(index)
    return blocks


def _block(
    table: Table, cells: Sequence[Sequence[str]], columns: Sequence[int], width: int
) -> rich.table.Table:
    out = rich.table.Table()
    names = min(_needs(table, cells, 0), width // 2)
    out.add_column(table.columns[0], overflow="fold", width=names)
    for index in columns:
        is_text = any(cell_len(row[index]) > LONG for row in cells if "\n" not in row[index])
        out.add_column(
            table.columns[index],
            justify="left" if is_text else "right",
            overflow="fold",
            min_width=min(_needs(table, cells, index), width - names - 7),
        )
    for row in cells:
        out.add_row(row[0], *(row[index] for index in columns))
    return out


def console_for_tables() -> Console:
    """Standard output; a file or a pipe has no edge to break lines at."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 140)
    return console


# What CommonMark and GitHub act on, less `_` inside a word, which they leave alone, and the begin of a link.
_MARKDOWN = re.compile(r"[\\`*\[\]<>#|~&$]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])|:(?=//)|(?<=www)\.")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", ":": "&#58;", ".": "&#46;"}
_LISTED = re.compile(r"^(\d*)([-+.)=])(?=[\s=-]|$)")  # what no line may begin with: a list, a rule


def _in_markdown(cell: object) -> str:
    """Text that Markdown shows as it is, on one line; our own numbers need no care."""
    if isinstance(cell, Number):
        return str(cell)
    text = _MARKDOWN.sub(lambda found: _ENTITIES.get(found[0], "\\" + found[0]), plain(cell).strip())
    return _LISTED.sub(r"\1\\\2", text)


def markdown(tables: Sequence[Table], stamp: Stamp, title: str, notes: Sequence[str] = ()) -> str:
    """A page of tables under their stamp, then the notes."""
    lines = [f"# {_in_markdown(title)}" + (f" ({_in_markdown(stamp.mark)})" if stamp.mark else ""), ""]
    for table in tables:
        lines += [f"## {_in_markdown(table.title)}", ""]
        lines += [_in_markdown(_stamp(table, stamp)), ""] if table.metrics else []
        lines += ["| " + " | ".join(map(_in_markdown, table.columns)) + " |"]
        lines += ["|" + "|".join(["---", *["---:"] * (len(table.columns) - 1)]) + "|"]
        lines += ["| " + " | ".join(map(_in_markdown, row)) + " |" for row in table.rows]
        lines += ["", *(f"{_in_markdown(note)}\n" for note in table.notes)]
    lines += [f"- {_in_markdown(note)}" for note in notes]
    return "\n".join(lines).rstrip() + "\n"


def write(table: Table, stamp: Stamp, folder: Path) -> None:
    """The table as NAME.md, NAME.csv and NAME.tex."""
    spellings = {
        "md": markdown([table], stamp, table.title),
        "csv": as_csv(table, stamp),
        "tex": latex(table, stamp),
    }
    for ending, text in spellings.items():
        write_bytes(folder / f"{table.name}.{ending}", text.encode())


def tell(tables: Iterable[Table], stamp: Stamp | None, console: Console, folder: Path | None = None) -> None:
    """Tables printed, each with its notes, and written into a folder where one is given."""
    for table in tables:
        if folder is not None and stamp is not None:
            write(table, stamp, folder)
        console.print(terminal(table, stamp, console.width))
        for note in table.notes:
            console.print(note, soft_wrap=True)


def write_frame(frame: pd.DataFrame, out: Path) -> None:
    """A tidy table as a .csv or .parquet file, whole or not at all; UserError for another kind of file."""
    if out.suffix == ".csv":
        data = frame_as_csv(frame).encode()
    elif out.suffix == ".parquet":
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        data = buffer.getvalue()
    else:
        raise UserError(f"--out {out}: write to a .parquet or a .csv file")
    make_folder(out.parent)
    write_bytes(out, data)


_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
_FORMULA = tuple("=+-@＝＋－＠'")  # how spreadsheets tell a formula, some in full width too; and our own mark


def in_csv(text: str) -> str:
    """A cell that every spreadsheet takes for text: one that begins as a formula does gets a `'` before it.

    What begins with `'` gets another: a reader who takes one away has the text back. Numbers stay numbers.
    """
    text = plain(text, lines=True)
    looks_live = text.lstrip().startswith(_FORMULA) and not _NUMBER.fullmatch(text)
    return f"'{text}" if looks_live else text


def as_csv(table: Table, stamp: Stamp) -> str:
    """Numbers in full with their ends in columns of their own; every line carries what it rests on."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    wide = [any(isinstance(row[i], Number) for row in table.rows) for i in range(len(table.columns))]
    head: list[str] = []
    for name, ends in zip(table.columns, wide, strict=True):
        head += [name, f"{name} low", f"{name} high"] if ends else [name]
    rests_on = stamp.fields(table.metrics) if table.metrics else {}
    writer.writerow(map(in_csv, [*head, *rests_on]))
    for row in table.rows:
        cells: list[str | int] = []
        for cell, ends in zip(row, wide, strict=True):
            if isinstance(cell, Number):
                cells += ["" if math.isnan(x) else f"{x:.6g}" for x in (cell.value, cell.low, cell.high)]
            else:
                cells += [cell, "", ""] if ends else [cell]
        cells += rests_on.values()
        writer.writerow(in_csv(cell) if isinstance(cell, str) else cell for cell in cells)
    return text.getvalue()


def frame_as_csv(frame: pd.DataFrame) -> str:
    """A tidy table of texts and numbers, without its index; texts as `in_csv` writes them."""
    made = frame.copy(deep=False)
    for name, column in frame.items():
        if column.dtype.kind not in "biufM":  # strings, and categories of them
            known = {value: in_csv(value) for value in column.unique() if isinstance(value, str)}
            made[name] = column.astype(object).map(lambda value, known=known: known.get(value, value))
    return made.rename(columns=lambda name: in_csv(str(name))).to_csv(index=False)


_TEX = {char: "\\" + char for char in "&%_#$"} | {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "`": r"\textasciigrave{}",
    "–": "--", "−": "$-$", "∞": r"$\infty$", "×": r"$\times$", "±": r"$\pm$", "≤": r"$\leq$",
    "≥": r"$\geq$", "·": r"$\cdot$", "°": r"$^\circ$", "ε": r"$\epsilon$", "‖": r"$\|$",
}  # fmt: skip


def _in_tex(cell: object) -> str:
    """Text that LaTeX sets as it is. It begins with `{}` where LaTeX would look for an option: `\\\\ [x]`."""
    text = plain(cell)
    # Two hyphens would be a dash.
    made = re.sub("(-(?=-))|.", lambda found: "-{}" if found[1] else _TEX.get(found[0], found[0]), text)
    return "{}" + made if text.lstrip().startswith(("[", "*")) else made


def latex(table: Table, stamp: Stamp) -> str:
    """A booktabs table with its stamp in the caption."""

    def lines() -> Iterator[str]:
        yield "\\begin{table}"
        yield f"\\caption{{{_in_tex(table.title)}. {_in_tex(_stamp(table, stamp))}}}"
        yield f"\\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}"
        yield "\\toprule"
        yield " & ".join(map(_in_tex, table.columns)) + r" \\"
        yield "\\midrule"
        for row in table.rows:
            yield " & ".join(map(_in_tex, row)) + r" \\"
        yield "\\bottomrule"
        yield "\\end{tabular}"
        yield "\\end{table}"

    return "\n".join(lines()) + "\n"
