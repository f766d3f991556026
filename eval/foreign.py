"""Other people's renders → run folders, so that a team without this runner can be compared. No torch."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image
from pydantic import ValidationError

from harness.config import Config, GuidanceConfig, UserError, ViewsConfig, first_line, first_problem
from harness.prompt import normalised
from harness.records.files import open_regular, read_json, write_json
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec, SuiteRef, run_id, slug
from harness.records.schema import SPEC

LAYOUT = "<method>/<prompt-id>/<seed>/rgb_*.png"
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
    say: Callable[[str], None] = print,
) -> list[str]:
    """Run folders under `out` from `<method>/<prompt-id>/<seed>/rgb_*.png` under `folder`; their run ids.

    The layout is GPTEval3D's (Wu et al. 2024); `folder` may also be its root, with `methods/` and
    prompts.json. A prompt-id is an index from 0 (into prompts.json where there is one, else into the suite),
    the prompt's text, or its slug. The frames of a run are one full turn that starts at the front: those
    nearest to `azimuths` evenly spaced angles become the views of step `steps`, the run's last; there is no
    held-out view. Frames are laid on white, cut to the central square, and brought to the smallest side of
    the run.
    `elevation` [degrees] is a label: the default is that of threestudio's test views. Distance and field of
    view are unknown, and the spec's mean nothing.

    The caller writes the suite beside the runs (`suites/<sha256[:12]>.json`), which evaluation needs as pool.
    Importing again overwrites, but for runs that are damaged, which `say` is told of. Raises UserError,
    before anything is written, for an unmatched prompt-id, a seed that is no number, missing or unreadable
    frames, two folders that are the same run, and settings that make no sense.
    """
    try:
        config = Config(
            guidance=GuidanceConfig(prior=prior),
            views=ViewsConfig(azimuths=azimuths, elevation=elevation, heldout_elevation=None, count=1),
            steps=steps,
        )
    except ValidationError as error:
        raise UserError(f"import: {first_problem(error)}") from None
    ref = SuiteRef(name=suite.name, sha256=suite.sha256, size=len(suite.prompts))
    root = folder / "methods" if (folder / "methods").is_dir() else folder
    listed = read_json((root.parent if root.name == "methods" else root) / "prompts.json")
    if listed is not None and not (
        isinstance(listed, list) and all(isinstance(each, str) for each in listed)
    ):
        raise UserError(f"{folder}: prompts.json is no list of prompts")
    renders: dict[tuple[str, str, int], _Render] = {}
    for path in sorted({frame.parent for frame in root.glob("*/*/*/rgb_*.png")}):
        method, prompt_id, seed = path.parts[-3:]
        if not seed.isdecimal():
            raise UserError(f"{path}: '{seed}' is no seed; the layout is {LAYOUT}")
        prompt = _match(prompt_id, path, suite, listed or suite.prompts)
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


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _match(prompt_id: str, path: Path, suite: SuiteLike, listed: Sequence[str]) -> str:
    """The suite's prompt that a folder's name means."""
    text = prompt_id
    if prompt_id.isdecimal():
        if int(prompt_id) >= len(listed):
            raise UserError(f"{path}: no prompt {prompt_id}; they go from 0 to {len(listed) - 1}")
        text = listed[int(prompt_id)]
    for names in (
        lambda prompt: normalised(prompt) == normalised(text),
        lambda prompt: _is_slug(text, prompt),
    ):
        same = [prompt for prompt in suite.prompts if names(prompt)]
        if len(same) > 1:
            raise UserError(f"{path}: '{text}' may be '{same[0]}' or '{same[1]}'; name the folder by index")
        if same:
            return same[0]
    (near,) = difflib.get_close_matches(text, suite.prompts, n=1, cutoff=0)
    raise UserError(f"{path}: '{text}' is no prompt of the suite '{suite.name}'; the nearest is '{near}'")


def _is_slug(text: str, prompt: str) -> bool:
    return text.lower().replace("_", "-") in (slug(prompt), slug(prompt, length=len(prompt) + 1))


def _check(spec: RunSpec, path: Path, azimuths: int) -> _Render:
    by_number = {}
    for frame in path.glob("rgb_*.png"):
        number = frame.stem.removeprefix("rgb_")
        if not number.isdecimal():
            raise UserError(f"{frame}: frames are rgb_0.png, rgb_1.png, …")
        by_number[int(number)] = frame
    numbers = sorted(by_number)
    turn = len(numbers)
    if numbers != list(range(numbers[0], numbers[0] + turn)):
        lost = next(n for n in range(numbers[0], numbers[-1]) if n not in by_number)
        raise UserError(f"{path}: rgb_{lost}.png is missing, so the angles of the others are unknown")
    if turn < azimuths:
        raise UserError(f"{path}: {turn} frames, but {azimuths} azimuths are asked for")
    frames = [by_number[numbers[round(k * turn / azimuths)]] for k in range(azimuths)]
    side = min(_square(frame).width for frame in frames)
    return _Render(spec, "/".join(path.parts[-3:]), turn, frames, side)


def _square(frame: Path, side: int | None = None) -> Image.Image:
    """A frame on white, its central square, at `side` pixels."""
    try:
        with open_regular(frame) as file, Image.open(file) as image:
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
