"""Prompts and labels are text in pictures too: no mathtext, and fonts that have what ours lack."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image, ImageDraw

from eval.command import evaluate
from eval.figures import fonts
from eval.figures.contact_sheet import Pen, contact_sheets
from eval.figures.grids import wrapped
from eval.figures.write import FIGURES, write_figures
from eval.runs import Runs
from harness.console import Console
from harness.records.identity import SuiteRef
from tests.eval.conftest import PROMPTS, Sweep

HOSTILE = (
    r"a red apple $\foo$ and $5", r"$x^2$", "a \x1b[31mcup\tof tea", "émigré œuvre", "红苹果在桌子上" * 6,
    "a 🦊 fox", "w" * 300, r"\frac{", "a %d {x} #1 & ~",
)  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, clip_folder: Path) -> Runs:
    ref = SuiteRef(
        name="$s$", sha256=hashlib.sha256("\n".join(HOSTILE).encode()).hexdigest(), size=len(HOSTILE)
    )
    runs = Sweep(tmp_path_factory.mktemp("hostile") / "runs", ref, HOSTILE)
    for prompt in HOSTILE:
        for seed in (0, 1):
            runs.add("uniform_sds", prompt, seed, shows=PROMPTS[0])
            end = "failed" if prompt == HOSTILE[0] and seed else "done"
            runs.add("tp_sds", prompt, seed, end, shows=PROMPTS[1], variant="$v$_x")
    return Runs(runs.root, clip=str(clip_folder), device="cpu", ground_truth=None, samples=0)


def test_figures_show_hostile_texts_as_they_are(study: Runs, tmp_path: Path) -> None:
    told: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a missing glyph is told by us, once
        paths = write_figures(study, [], tmp_path, "x", told.append)
    drawn = {path.stem for path in paths}
    assert {"r_precision", "steps_grid", "seeds_grid", "methods_grid", "diversity"} <= drawn
    boxes = [line for line in told if "boxes" in line]
    _, missing = fonts.fallbacks(HOSTILE)
    assert len(boxes) == bool(missing) and all(char in "".join(boxes) for char in missing[:8])
    shown = ""
    for name in ("methods_grid", "r_precision"):
        texts = [text for text in FIGURES[name].draw(study).findobj(Text) if isinstance(text, Text)]
        assert not any(text.get_parse_math() for text in texts)
        shown += "".join(text.get_text() for text in texts)
    assert r"$\foo$" in "".join(shown.split()) and "$v$_x" in shown and "\x1b" not in shown


def test_where_no_font_has_a_character_it_is_said_once(
    study: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fonts, "_installed", lambda: ())
    fonts._search.cache_clear()
    told: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        write_figures(study, ["methods_grid", "steps_grid"], tmp_path, "x", told.append)
    fonts._search.cache_clear()
    assert len(told) == 1 and "红" in told[0] and "boxes" in told[0] and "é" not in told[0]


def test_a_font_that_has_the_characters_is_found_and_draws_them(tmp_path: Path) -> None:
    found, missing = fonts.fallbacks(["苹果"])
    if missing:
        pytest.skip("no font with Chinese characters is installed")
    assert {"苹", "果"} <= set().union(*map(fonts.characters, found))
    blank = np.zeros((96, 96, 3), np.uint8)
    one, other = (
        np.asarray(contact_sheets("t", {text: {"m": [blank[None].repeat(4, 0)]}}, 4)[0]) for text in "苹果"
    )
    assert (one != other).any()  # two boxes would be the same


def test_a_sheet_writes_accents_that_pillows_font_lacks() -> None:
    image = Image.new("RGB", (400, 60), "white")
    pen = Pen(ImageDraw.Draw(image), 14, [fonts.own()])
    assert [index for index, _ in pen._parts("née œ")] == [0, 1, 0, 1]
    assert pen.width("née") > pen.width("ne") and pen.width("a\x00b") > pen.width("ab")
    for text in ("w" * 300, "红苹果在桌子上" * 6, "a b c", ""):
        lines = pen.wrap(text, 100)
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
        assert all(pen.width(line) <= 100 for line in lines)


def test_evaluate_draws_the_sheet_of_hostile_texts(study: Runs, tmp_path: Path) -> None:
    out = io.StringIO()
    evaluate(study, tmp_path, console=Console(file=out, width=200))
    missing = fonts.fallbacks(HOSTILE)[1]
    assert ("boxes" in out.getvalue()) == bool(missing) and "\x1b" not in out.getvalue()
    assert Image.open(tmp_path / "contact_sheet.png").width > 300


def test_wide_letters_count_twice_and_break_anywhere() -> None:
    assert wrapped("红苹果在", 4) == ["红苹", "果在"]
