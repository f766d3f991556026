"""Other people's renders → run folders, so that a team without this runner can be compared. No torch."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeGuard

import numpy as np
from PIL import Image

from harness.config import Config, GuidanceConfig, UserError, ViewsConfig, first_line, fitting
from harness.prompt import normalised
from harness.records.files import NoSuchFile, open_image, open_regular, read_text, write_json
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec, SuiteRef, run_id, slug
from harness.records.schema import SPEC
from harness.text import parse_json

LAYOUT = "<method>/<prompt-id>/<seed>/rgb_*.png"
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
STAMP = re.compile(r"@\d{8}-\d{6}$")  # threestudio's, when a trial began
NAMED = 8  # of what is left out
CUT = 16  # letters and marks; whoever cuts names leaves at least so many
WHITE = (255, 255, 255, 255)


class SuiteLike(Protocol):
    """A named, ordered list of prompts with its hash: `harness.sweep.grid.Suite`."""

    @property
    def name(self) -> str: ...
    @property
    def prompts(self) -> Sequence[str]: ...
    @property
    def sha256(self) -> str: ...


@dataclass(frozen=True)
class _Render:
    """One run's renders: the frames of its views, checked, and the side of the square they are shown at."""

    spec: RunSpec
    source: str
    turn: int  # how many frames the full turn has
    frames: Sequence[Path]
    side: int

    def views(self) -> np.ndarray:
        """[V, H, H, 3] uint8."""
        return np.stack([np.asarray(_square(frame, self.side)) for frame in self.frames])


def import_renders(
    folder: Path,
    suite: SuiteLike,
    out: Path,
    azimuths: int = 8,
    elevation: float = 15.0,
    steps: int = 1,
    prior: str = "foreign",
    is_toy: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Run folders under `out` from `<method>/<prompt-id>/<seed>/rgb_*.png` under `folder`; their run ids.

    The layout is GPTEval3D's (Wu et al. 2024); `folder` may also be its root, with `methods/` and
    prompts.json. A prompt-id is an index from 0 (into prompts.json where there is one, else into the suite),
    or the prompt's text as folders are named by it: underscores or hyphens for blanks and marks, cut, with
    threestudio's time at its end. Frames are png, jpg or webp. They are one full turn that starts at the
    front: those nearest to `azimuths` evenly spaced angles become the views of step `steps`, the run's last;
    there is no held-out view. Frames are laid on white, cut to the central square, and brought to the
    smallest side of the run.
    `elevation` [degrees] is a label: the default is that of threestudio's test views. Distance and field of
    view are unknown, and the spec's mean nothing.

    The caller writes the suite beside the runs (`suites/<sha256[:12]>.json`), which evaluation needs as pool.
    Importing again overwrites, but for runs that are damaged. `say` is told of those, of every folder that is
    left out since it has no frames, of how many files are no frames, and of names that were taken for cut
    ones. Raises UserError, before anything is written, for a prompts.json that is none, a prompt-id of no
    prompt or of several, a seed that is no number, missing or unreadable frames, two folders that are the
    same run, and settings that make no sense.
    """
    with fitting("import"):
        config = Config(
            guidance=GuidanceConfig(prior=prior),
            views=ViewsConfig(azimuths=azimuths, elevation=elevation, heldout_elevation=None, count=1),
            steps=steps,
        )
    ref = SuiteRef(name=suite.name, sha256=suite.sha256, size=len(suite.prompts))
    root = folder / "methods" if (folder / "methods").is_dir() else folder
    listed = _listed((root.parent if root.name == "methods" else root) / "prompts.json") or suite.prompts
    renders: dict[tuple[str, str, int], _Render] = {}
    for path in _folders(root, say):
        method, prompt_id, seed = path.parts[-3:]
        if not seed.isdecimal() or len(seed) > 18:
            raise UserError(f"{path}: '{seed}' is no seed; the layout is {LAYOUT}")
        prompt = _match(prompt_id, path, suite, listed, say)
        spec = RunSpec(method=method, prompt=prompt, seed=int(seed), config=config, suite=ref)
        render = _check(spec, path, azimuths)
        twin = renders.setdefault((method, prompt, int(seed)), render)
        if twin is not render:
            raise UserError(f"{render.source} and {twin.source} are the same method, prompt and seed")
    if not renders:
        raise UserError(f"no renders in {folder}; the layout is {LAYOUT}")
    env = {"prior": {"tag": prior, "weights_hash": "", "is_toy": is_toy}}
    written = []
    for render in renders.values():
        name = run_id(render.spec)
        if damage := RunFolder(out / name).look(spec_known=True).damage:
            say(f"damaged, and left as it is: {name}: {damage}")
        else:
            written.append(_write(out, render, env))
    return written


def _is_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _listed(path: Path) -> list[str] | None:
    """The prompts of a prompts.json, None where there is none; UserError for one that is broken."""
    try:
        prompts = parse_json(read_text(path))
    except NoSuchFile:
        return None
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}), so the indices of folders mean nothing") from None
    if not _is_texts(prompts):
        raise UserError(f"{path} must be a list of prompts")
    return prompts


def _folders(root: Path, say: Callable[[str], None]) -> list[Path]:
    """The folders of frames; `say` is told of what is left out."""
    found: list[Path] = []
    empty: list[str] = []
    others: list[Path] = []

    def look(folder: Path, depth: int) -> None:
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        folders = [path for path in inside if path.is_dir()]
        frames = [path for path in inside if depth == 3 and _is_frame(path)]
        if (depth == 3 and not frames) or (depth and not inside):
            why = f"no rgb_* among {len(inside)}, such as {inside[0].name}" if inside else "empty"
            empty.append(f"{folder.relative_to(root)} ({why})")
        else:
            others.extend(path for path in inside if path not in frames and not (depth < 3 and path.is_dir()))
        if frames:
            found.append(folder)
        for path in folders if depth < 3 else ():
            look(path, depth + 1)

    if root.is_dir():
        look(root, 0)
    others = [path for path in others if path.name != "prompts.json"]
    for what, why, names in (
        ("folder", "they hold no frames", empty),
        ("file", "they are no frames", [str(path.relative_to(root)) for path in others]),
    ):
        if names:
            several = f"{len(names)} {what}{'s' * (len(names) > 1)}: {', '.join(names[:NAMED])}"
            say(f"left out, since {why}: {several}{', …' if len(names) > NAMED else ''}")
    return found


def _is_frame(path: Path) -> bool:
    return path.name.startswith("rgb_") and path.suffix.lower() in PICTURES and path.is_file()


def _match(
    prompt_id: str, path: Path, suite: SuiteLike, listed: Sequence[str], say: Callable[[str], None]
) -> str:
    """The suite's prompt that a folder's name means."""
    text = STAMP.sub("", prompt_id)
    if text.isdecimal() and len(text) < 10:
        if int(text) >= len(listed):
            raise UserError(f"{path}: no prompt {text}; they go from 0 to {len(listed) - 1}")
        text = listed[int(text)]
    words = _words(text)
    for names in (
        lambda prompt: normalised(prompt) == normalised(text),
        lambda prompt: _words(prompt) == words or _is_slug(text, prompt),
        lambda prompt: len(words) >= CUT and _words(prompt).startswith(words),
    ):
        same = [prompt for prompt in suite.prompts if names(prompt)]
        if len(same) > 1:
            several = "', '".join(same[:5]) + ("', …" if len(same) > 5 else "'")
            raise UserError(f"{path}: '{text}' may be '{several}; name the folder by index")
        if same:
            if _words(same[0]) != words and not _is_slug(text, same[0]):
                say(f"{path.parent.name} is taken for the beginning of '{same[0]}'")
            return same[0]
    (near,) = difflib.get_close_matches(text, suite.prompts, n=1, cutoff=0)
    raise UserError(f"{path}: '{text}' is no prompt of the suite '{suite.name}'; the nearest is '{near}'")


def _words(text: str) -> str:
    """Letters and digits, whatever stands between them: folders have underscores there, or hyphens."""
    return " ".join(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold()))


def _is_slug(text: str, prompt: str) -> bool:
    return text.lower().replace("_", "-") in (slug(prompt), slug(prompt, length=len(prompt) + 1))


def _check(spec: RunSpec, path: Path, azimuths: int) -> _Render:
    by_number: dict[int, Path] = {}
    for frame in sorted(filter(_is_frame, path.iterdir())):
        number = frame.stem.removeprefix("rgb_")
        if not number.isdecimal() or len(number) > 9:
            raise UserError(f"{frame}: frames are rgb_0.png, rgb_1.png, …")
        twin = by_number.setdefault(int(number), frame)
        if twin is not frame:
            raise UserError(f"{frame} and {twin.name} are the same frame; remove one")
    numbers = sorted(by_number)
    turn = len(numbers)
    if numbers != list(range(numbers[0], numbers[0] + turn)):
        lost = next(n for n in range(numbers[0], numbers[-1]) if n not in by_number)
        name = f"rgb_{lost}{by_number[numbers[0]].suffix}"
        raise UserError(f"{path}: {name} is missing, so the angles of the others are unknown")
    if turn < azimuths:
        raise UserError(f"{path}: {turn} frames, but {azimuths} azimuths are asked for")
    frames = [by_number[numbers[round(k * turn / azimuths)]] for k in range(azimuths)]
    side = min(_square(frame).width for frame in frames)
    return _Render(spec, "/".join(path.parts[-3:]), turn, frames, side)


def _square(frame: Path, side: int | None = None) -> Image.Image:
    """A frame on white, its central square, at `side` pixels."""
    try:
        with open_regular(frame) as file, open_image(file) as image:
            picture = image.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{frame}: not a readable picture ({first_line(error)})") from error
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, WHITE), picture).convert("RGB")
    width, height = picture.size
    edge = min(width, height)
    left, top = (width - edge) // 2, (height - edge) // 2
    picture = picture.crop((left, top, left + edge, top + edge))
    return picture if side in (None, edge) else picture.resize((side, side), Image.Resampling.LANCZOS)


def _write(out: Path, render: _Render, env: dict) -> str:
    folder = RunFolder.create(out, render.spec)
    write_json(folder.path / SPEC, render.spec.model_dump(mode="json"))  # the suite may be another now
    folder.save_env(env)
    steps = render.spec.config.steps
    folder.save_views(steps, render.views())
    folder.finish({"steps": steps, "views": [steps], "source": render.source, "frames": render.turn})
    return folder.id
