"""Other people's renders become run folders that evaluation reads like its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.sources.foreign import import_renders
from eval.sources.load import load_runs
from harness.config import UserError
from harness.records.folder import RunFolder
from tests.eval.conftest import PROMPTS

LONG = "a very long caption of a wooden table with four thick legs, a drawer, and a lamp"


@dataclass(frozen=True)
class Suite:
    name: str = "seven"
    prompts: tuple[str, ...] = (*PROMPTS, LONG)
    sha256: str = "5" * 64


def _frame(path: Path, grey: int, size: tuple[int, int] = (24, 16), mode: str = "RGB") -> None:
    """A grey picture whose left and right edges are red, so that a crop to the centre shows."""
    width, height = size
    pixels = np.full((height, width, 3), grey, np.uint8)
    if width > height:
        pixels[:, : (width - height) // 2] = pixels[:, -((width - height) // 2) :] = (255, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)


def _turn(folder: Path, frames: int = 16, first: int = 0, **how: object) -> None:
    for k in range(frames):
        _frame(folder / f"rgb_{first + k}.png", 10 * k, **how)  # type: ignore[arg-type]


def test_views_come_back_through_load_runs(tmp_path: Path) -> None:
    theirs, out = tmp_path / "theirs", tmp_path / "runs"
    _turn(theirs / "mvdream" / "0" / "0")
    _turn(theirs / "mvdream" / "1" / "3", frames=9, first=1, size=(16, 16))
    (theirs / "mvdream" / "0" / "0" / "normal_0.png").write_bytes(b"not looked at")
    ids = import_renders(theirs, Suite(), out, azimuths=4, elevation=20.0, steps=700)
    records, problems = load_runs(out)
    assert sorted(ids) == [record.run_id for record in records] and not problems
    first, second = sorted(records, key=lambda record: record.seed)
    assert (first.method, first.prompt, first.seed, first.status) == ("mvdream", PROMPTS[0], 0, "done")
    assert (second.prompt, second.seed, first.suite) == (PROMPTS[1], 3, Suite().sha256)
    assert (first.prior, first.mark, first.view_steps) == ("foreign", "", (700,))
    assert (first.config.views.elevation, first.config.views.tiles, first.total) == (20.0, 4, 700)
    views = first.views(700)
    assert views.shape == (4, 16, 16, 3) and views.dtype == np.uint8
    assert (views == np.array([0, 40, 80, 120])[:, None, None, None]).all()  # every fourth of 16, no red edge
    nearest = second.views(700)[:, 0, 0, 0]
    assert nearest.tolist() == [0, 20, 40, 70]  # of 9 frames, those nearest to 0°, 90°, 180° and 270°

    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert import_renders(theirs, Suite(), out, azimuths=4, elevation=20.0, steps=700) == ids
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("2", PROMPTS[2]),
        ("002", PROMPTS[2]),
        ("A  red cup.", "a red cup"),
        ("a-red-cup", "a red cup"),
        ("a_red_cup", "a red cup"),
        ("a-very-long-caption-of-a-wooden-table", LONG),
        ("a_red_cup@20230512-123456", "a red cup"),
        ("2@20230512-123456", PROMPTS[2]),
        ("A_Red_Cup._", "a red cup"),
        (LONG.replace(" ", "_"), LONG),
        ("a_very_long_caption_of_a_wooden_table_with_fo@20230512-123456", LONG),
        ("a very long caption of a wo", LONG),
        ("a-very-long-caption-of-a-wooden-table-with-four-thick-legs-a-drawer-and-a-lamp", LONG),
    ],
)
def test_a_prompt_is_known_by_index_text_or_slug(tmp_path: Path, name: str, prompt: str) -> None:
    _turn(tmp_path / "in" / "m" / name / "0", frames=2)
    (run,) = import_renders(tmp_path / "in", Suite(), tmp_path / "out", azimuths=2)
    assert RunFolder(tmp_path / "out" / run).spec().prompt == prompt


def test_an_index_means_their_own_list_where_there_is_one(tmp_path: Path) -> None:
    _turn(tmp_path / "methods" / "m" / "0" / "0", frames=2)
    (tmp_path / "prompts.json").write_text(json.dumps(["A pink donut.", "something else"]))
    for folder in (tmp_path, tmp_path / "methods"):
        (run,) = import_renders(folder, Suite(), tmp_path / "out", azimuths=2)
        assert RunFolder(tmp_path / "out" / run).spec().prompt == "a pink donut"


def test_transparent_and_unequal_frames(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "m" / "0" / "0"
    folder.mkdir(parents=True)
    Image.new("RGBA", (20, 20), (9, 9, 9, 0)).save(folder / "rgb_0.png")
    _frame(folder / "rgb_1.png", 50, size=(8, 12))
    _frame(folder / "rgb_2.png", 60, size=(30, 30), mode="L")
    (run,) = import_renders(tmp_path / "in", Suite(), tmp_path / "out", azimuths=3, is_toy=True)
    views = RunFolder(tmp_path / "out" / run).views(1)
    assert views.shape == (3, 8, 8, 3) and views[:, 4, 4, 0].tolist() == [255, 50, 60]
    assert load_runs(tmp_path / "out")[0][0].mark == "toy"


def _rename(part: str, to: str) -> Callable[[Path], object]:
    return lambda root: (root / "m" / part).rename(root / "m" / to)


def _prompts(text: str) -> Callable[[Path], object]:
    return lambda root: (root / "prompts.json").write_text(text)


def _spoil(root: Path) -> None:
    (root / "m" / "3" / "1" / "rgb_8.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_rename("3", "a yellow buss"), "'a yellow buss' is no prompt of the suite 'seven'; the nearest"),
        (_rename("3", "7"), "no prompt 7; they go from 0 to 6"),
        (_rename("3/1", "3/one"), "'one' is no seed; the layout is <method>/<prompt-id>/<seed>/rgb_"),
        (_rename("3", "a yellow"), "'a yellow' is no prompt of the suite"),  # too short for a cut name
        (_rename("3/1/rgb_5.png", "3/1/rgb_4.jpg"), r"rgb_4.png and rgb_4.jpg are the same frame"),
        (_prompts('["a blue cup", "a red apple",]'), r"prompts\.json is no JSON"),
        (_prompts('{"0": "a red cup"}'), r"prompts\.json must be a list of prompts"),
        (_prompts("[1, 2]"), r"prompts\.json must be a list of prompts"),
        (_prompts(""), r"prompts\.json is no JSON"),
        (_prompts("[" * 100_000), r"prompts\.json is no JSON \(brackets too deep\)"),
        (_rename("3/1/rgb_5.png", "3/1/extra.png"), r"rgb_5\.png is missing"),
        (_rename("3/1/rgb_15.png", "3/1/rgb_last.png"), r"frames are rgb_0\.png, rgb_1\.png"),
        (_rename("3", "a red cup"), "are the same method, prompt and seed"),
        (_spoil, r"rgb_8\.png: not a readable picture"),
        (lambda root: _turn(root / "m" / "4" / "0", frames=7), "7 frames, but 8 azimuths are asked for"),
        (lambda root: root.rename(root.parent / "gone"), "no renders in"),
    ],
)  # fmt: skip
def test_nothing_is_written_where_anything_is_wrong(
    tmp_path: Path, change: Callable[[Path], object], told: str
) -> None:
    root = tmp_path / "in"
    _turn(root / "m" / "0" / "1")
    _turn(root / "m" / "3" / "1")
    change(root)
    with pytest.raises(UserError, match=told) as caught:
        import_renders(root, Suite(), tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_captions_that_differ_beyond_their_slug_are_told_apart(tmp_path: Path) -> None:
    twins = Suite(prompts=("a red bus!", "a red bus?"))
    _turn(tmp_path / "in" / "m" / "a-red-bus" / "0", frames=2)
    with pytest.raises(UserError, match="may be 'a red bus!', 'a red bus\\?'; name the folder by index"):
        import_renders(tmp_path / "in", twins, tmp_path / "out", azimuths=2)


def test_a_cut_name_of_several_prompts_lists_them(tmp_path: Path) -> None:
    one, two = f"{LONG} at dawn", f"{LONG} at dusk"
    _turn(tmp_path / "in" / "m" / LONG.replace(" ", "_") / "0", frames=2)
    with pytest.raises(UserError, match=f"may be '{one}', '{two}'; name the folder by index"):
        import_renders(tmp_path / "in", Suite(prompts=(one, two, "a cup")), tmp_path / "out", azimuths=2)
    told: list[str] = []
    import_renders(
        tmp_path / "in", Suite(prompts=(one, "a cup")), tmp_path / "out", azimuths=2, say=told.append
    )
    assert told == [f"{LONG.replace(' ', '_')} is taken for the beginning of '{one}'"]


def test_what_is_left_out_is_named_and_counted(tmp_path: Path) -> None:
    theirs = tmp_path / "in"
    for prompt in range(2):
        _turn(theirs / "m" / str(prompt) / "0", frames=2)
    for k in range(3):
        _frame(theirs / "n" / "0" / "0" / f"rgb_{k}.{('jpg', 'JPEG', 'webp')[k]}", 10 * k)
        _frame(theirs / "n" / "1" / "0" / f"color_{k}.png", 10 * k)
    (theirs / "n" / "2").mkdir()
    (theirs / "n" / "3" / "0").mkdir(parents=True)
    (theirs / "empty").mkdir()
    (theirs / ".DS_Store").write_bytes(b"")
    for name in ("notes.txt", "m/0/0/normal_0.png", "m/0/log.txt", "prompts.json"):
        (theirs / name).write_text('["a red cup", "a blue car"]')
    told: list[str] = []
    ids = import_renders(theirs, Suite(), tmp_path / "out", azimuths=2, say=told.append)
    assert len(ids) == 3 and {run.method for run in load_runs(tmp_path / "out")[0]} == {"m", "n"}
    assert told == [
        "left out, since they hold no frames: 4 folders: empty (empty), n/1/0 (no rgb_* among 3, such as "
        "color_0.png), n/2 (empty), n/3/0 (empty)",
        "left out, since they are no frames: 3 files: notes.txt, m/0/log.txt, m/0/0/normal_0.png",
    ]


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    _turn(tmp_path / "in" / "m" / "0" / "0")
    with pytest.raises(UserError, match=r"import: azimuths: .* greater than or equal to 1"):
        import_renders(tmp_path / "in", Suite(), tmp_path / "out", azimuths=0)
    with pytest.raises(UserError, match=r"import: steps: .* greater than or equal to 1"):
        import_renders(tmp_path / "in", Suite(), tmp_path / "out", steps=0)
