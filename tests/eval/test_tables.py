"""Text is text in every spelling of a table: read back by parsers that are not ours, and set by LaTeX."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from eval.tables.table import Cell, Number, Table, as_csv, frame_as_csv, in_csv, latex, markdown, terminal
from harness.console import Console
from harness.text import plain

LIVE = [
    r"\input{x}", r"a\b", "{", "}", "~", "^", "a_b", "_a_", "__a__", "100 %", "#1", "$x$", "&amp;",
    "& cell",
    "=1+1", "+1", "-1", "-x", "@SUM(A1)", "\t=1", "\r=1", " =1", "'=1", "''", "＝1", "-1.5e3",
    "- list", "1. list", "<script>alert(1)</script>", "[a](http://b)", "![a](b)", "http://a.b",
    "www.a.b", "`code`", "a|b",
    "*a*", "a\nb", "[/data/x]", "[bold]x", "[link=http://a]x[/link]", ":smile:", "\x1b[31mred",
    "\u202eabc", "--",
    "[x]", "*", "", " ", "===", "---", "# head", "> quote", "a\u2028b", "\ud800", "\x00",
    "ε̂ – ∞ ≥ 3°", "中文", "🦊", "x" * 300,
]  # fmt: skip
TEXTS = (
    st.sampled_from(LIVE)
    | st.text(max_size=40)
    | st.text("\\{}~^_%#$&|<>[]()*`!=+-@'\"\t\r\n a1.:/", max_size=30)
)
NUMBER = Number(-0.125, -0.5, 0.25, scale=100, sign=True)


class Plain:
    """A stamp of nothing but a text."""

    def __init__(self, text: str):
        self.text = self.mark = text

    def line(self, metrics: Sequence[str] = ()) -> str:
        return self.text

    def fields(self, metrics: Sequence[str]) -> dict[str, str | int]:
        return {"scorer": self.text, "runs": 3}


def table_of(texts: list[str]) -> Table:
    return Table(
        "t", ["m"], texts[0], ["method", texts[1], "n"], [[text, NUMBER, -3] for text in texts], texts[:2]
    )


def shown(tokens: list[Token]) -> list[str]:
    """The text of every inline token; fails on anything that is no text."""
    found = []
    for token in tokens:
        if token.type == "inline":
            assert {child.type for child in token.children or []} <= {"text", "text_special"}, token.content
            found.append("".join(child.content for child in token.children or []))
    return found


def one_line(text: str) -> str:
    return " ".join(plain(text).split())


@given(st.lists(TEXTS, min_size=2, max_size=6))
@example(LIVE)
@settings(deadline=None, max_examples=60)
def test_markdown_shows_every_text_as_it_is(texts: list[str]) -> None:
    page = markdown([table_of(texts)], Plain(texts[0]), texts[0], texts)
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(page)
    kinds = {token.type.rpartition("_")[0] or token.type for token in tokens}
    blocks = {"heading", "paragraph", "table", "thead", "tbody", "tr", "th", "td", "bullet_list", "list_item"}
    assert kinds <= {*blocks, "inline"}
    assert sum(token.type == "tr_open" for token in tokens) == 1 + len(texts)
    start = next(i for i, token in enumerate(tokens) if token.type == "tbody_open")
    end = next(i for i, token in enumerate(tokens) if token.type == "tbody_close")
    cells = shown(tokens[start:end])
    assert [" ".join(cell.split()) for cell in cells[::3]] == [one_line(text) for text in texts]
    assert set(cells[1::3]) == {str(NUMBER)} and set(cells[2::3]) == {"-3"}
    notes = [" ".join(text.split()) for text in shown(tokens[end:])]
    assert [note for note in notes if note] == [note for note in map(one_line, texts[:2] + texts) if note]


@given(st.lists(TEXTS, min_size=2, max_size=6))
@example(LIVE)
@settings(deadline=None, max_examples=60)
def test_csv_has_no_formula_and_reads_back(texts: list[str]) -> None:
    text = as_csv(table_of(texts), Plain(texts[0]))
    assert text == frame_read(text)[1]
    head, *rows = csv.reader(io.StringIO(text))
    for cell in [*head, *(cell for row in rows for cell in row)]:
        assert is_number(cell) or not cell.lstrip().startswith(("=", "+", "-", "@"))
    read = [row[0].removeprefix("'") for row in rows]
    assert read == [plain(text, lines=True) for text in texts]
    assert all(row[1:][:4] == ["-0.125", "-0.5", "0.25", "-3"] for row in rows)


def frame_read(text: str) -> tuple[pd.DataFrame, str]:
    """What pandas makes of it, and the same written again without our care."""
    frame = pd.read_csv(io.StringIO(text), header=None, dtype=str, keep_default_na=False, na_filter=False)
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(frame.to_numpy().tolist())
    return frame, out.getvalue()


def is_number(cell: str) -> bool:
    return re.fullmatch(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", cell) is not None


def is_unicode(text: str) -> bool:
    """Whether pandas can hold a text: half a character is none to its arrow strings."""
    return text.encode(errors="ignore").decode() == text


@given(st.lists(TEXTS.filter(is_unicode), min_size=1, max_size=5), st.booleans())
@settings(deadline=None, max_examples=50)
def test_a_frame_keeps_its_numbers_and_its_texts(texts: list[str], as_category: bool) -> None:
    frame = pd.DataFrame({"prompt": texts, "value": [-1.5] * len(texts), "seed": [-2] * len(texts)})
    if as_category:
        frame["prompt"] = frame["prompt"].astype("category")
    rows = list(csv.DictReader(io.StringIO(frame_as_csv(frame), newline="")))
    assert [row["prompt"].removeprefix("'") for row in rows] == [plain(text, lines=True) for text in texts]
    assert {(row["value"], row["seed"]) for row in rows} == {("-1.5", "-2")}
    assert frame["prompt"].tolist() == texts


def test_what_a_csv_holds_of_formulas() -> None:
    assert in_csv("=1+1") == "'=1+1" and in_csv("-x") == "'-x" and in_csv("-1.5") == "-1.5"
    assert in_csv("'=1") == "''=1" and in_csv(" @x") == "' @x"


@given(st.lists(TEXTS, min_size=2, max_size=6))
@example(LIVE)
@settings(deadline=None, max_examples=60)
def test_tex_has_no_command_but_ours(texts: list[str]) -> None:
    plainest = latex(table_of(["x"] * len(texts)), Plain("x"))
    written = latex(table_of(texts), Plain(texts[0]))
    assert written.count("\n") == plainest.count("\n")
    ours = re.compile(
        r"\\(text[a-z]+|infty|times|pm|leq|geq|cdot|circ|epsilon)\b(\{\})?|\\[&%_#{}|]|\\\$|\$\^|\$"
    )
    for line, other in zip(written.splitlines(), plainest.splitlines(), strict=True):
        # Less what stands for a character, a line has the structure of one without any: no command, no cell,
        # no comment, no group of the data's own.
        bare = ours.sub("", line)
        for special in "\\&%#$_^~":
            assert bare.count(special) == ours.sub("", other).count(special), (special, line)
        depth = 0
        for char in bare:
            depth += (char == "{") - (char == "}")
            assert depth >= 0, line
        assert depth == 0, line
        assert not line.startswith(("[", "*"))


LATEX = shutil.which("pdflatex")


@pytest.mark.skipif(LATEX is None, reason="no pdflatex on this machine")
def test_latex_sets_every_text_that_its_fonts_have(tmp_path: Path) -> None:
    def has(text: str) -> bool:
        return all(char < "\x7f" or char in "–∞≥°ε" for char in plain(text).replace("\u0302", ""))

    texts = [text.replace("\u0302", "") for text in LIVE if has(text)]
    texts += [f"{a}{b}" for a in "\\{}~^_%#$&-[*`" for b in "\\{}~^_%#$&-[*`"]
    pages = [latex(table_of(texts[i : i + 30]), Plain(texts[i])) for i in range(0, len(texts) - 1, 30)]
    source = "\\documentclass{article}\\usepackage{booktabs}\\usepackage[T1]{fontenc}\\begin{document}\n"
    (tmp_path / "x.tex").write_text("\\errmessage{data was read as a file}")
    (tmp_path / "t.tex").write_text(
        source + "\\clearpage\n".join(pages) + "\\end{document}\n", encoding="utf-8"
    )
    command = [str(LATEX), "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert len(texts) > 200 and (tmp_path / "t.pdf").stat().st_size > 10_000


@given(st.lists(TEXTS, min_size=2, max_size=6))
@example(LIVE)
@settings(deadline=None, max_examples=80)
def test_a_terminal_gets_no_markup_and_no_escape_from_data(texts: list[str]) -> None:
    out = io.StringIO()
    console = Console(file=out, width=1000, force_terminal=True, color_system=None, legacy_windows=False)
    for text in texts:
        console.print(text, soft_wrap=True)
        assert plain(text, lines=True) in out.getvalue()
    table = table_of([one_line(text) for text in texts])
    console.print(terminal(table, Plain(one_line(texts[0])), console.width))
    drawn = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())  # our own bold and italics
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", drawn)
    for text in texts:
        assert "".join(one_line(text).split())[:200] in "".join(drawn.split())


@pytest.mark.parametrize("width", [60, 80, 140])
def test_a_terminal_of_any_width_breaks_no_number_and_loses_none(width: int) -> None:
    rows: list[list[Cell]] = [
        [f"uniform_sds, cfg_scale {row}", 200, *(Number(row + k / 10, k / 10, 9.5) for k in range(8)), "–"]
        for row in range(3)
    ]
    columns = ["method", "step", *(f"measure {k}, %" for k in range(8)), "held-out"]
    console = Console(file=io.StringIO(), width=width)
    console.print(terminal(Table("t", [], "A table", columns, rows), None, width))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width and any(line.startswith("in all rows: step 200") for line in lines)
    assert any(line.startswith("without values: held-out") for line in lines)
    for cell in (cell for row in rows for cell in row[2:-1]):
        value, interval = str(cell).split(" ", 1)
        assert any(value in line.split() for line in lines) and any(interval in line for line in lines)
