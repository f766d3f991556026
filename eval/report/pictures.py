"""Small WebP pictures of a run's stored views: a thumbnail, a turn around the object, a film over the steps.
Of ground truth, the first two.

Views that cannot be read leave their place grey; nothing is chosen for its looks.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from eval.sources.load import RunRecord
from harness.records.files import read_json, resized, write_bytes, write_json

VERSION = 2  # raise it when any picture below changes: made ones are kept by it
TILE = 192  # pixels: a view is at most so large
LONGEST = 16_000  # pixels along a side of a WebP
FRAME_MS = 220
GREY = 128


@dataclass(frozen=True)
class Made:
    """What a run's folder of pictures holds, and the `key` of all that it was made from."""

    key: str
    steps: list[int]  # the rows of the film; the thumbnail and the turn show the last
    thumb: bool = False
    turn: str = ""  # "turntable", "ring" (the stored views) or ""
    mesh: bool = False


_MADE = TypeAdapter(Made)


def thumb(run: RunRecord, step: int) -> bytes | None:
    """The front view of a step; None where its views cannot be read."""
    views_VHWC = _views(run, step)
    return None if views_VHWC is None else _still(views_VHWC)


def turn(run: RunRecord, step: int) -> bytes | None:
    """The ring's views of a step as an endless animation; None where there is no ring to see."""
    ring = run.config.views.azimuths
    views_VHWC = _views(run, step)
    return None if views_VHWC is None or ring < 2 else _turning(views_VHWC[:ring])


def film(run: RunRecord, steps: Sequence[int]) -> bytes | None:
    """Every view of every step in one picture, a row of tiles per step; None where there is none to see."""
    rows = [_views(run, step) for step in steps]
    sides = [row.shape[1] for row in rows if row is not None]
    if not sides:
        return None
    columns = run.config.views.tiles
    side = min(*sides, TILE, LONGEST // columns, LONGEST // len(rows))
    sheet = np.full((len(rows), side, columns, side, 3), GREY, dtype=np.uint8)
    for place, row in enumerate(rows):
        if row is not None:
            sheet[place] = resized(row, side).swapaxes(0, 1)
    return _webp(sheet.reshape(len(rows) * side, columns * side, 3))


def rendered(run: RunRecord) -> str | None:
    """The film of `harness turntable` by its name in the run's folder; None where none was made."""
    return _there(run, run.folder.turntable / "colour.webp")


def meshed(run: RunRecord) -> str | None:
    """The mesh of `harness export` by its name in the run's folder; None where none was made."""
    return _there(run, run.folder.mesh / "object.glb")


def _there(run: RunRecord, path: Path) -> str | None:
    name = str(path.relative_to(run.path))
    return name if run.folder.has(name) else None


def make(run: RunRecord, folder: Path) -> Made:
    """Fill `folder` with thumb.webp, turn.webp, film.webp and object.glb, as far as the run has them.

    What was made from the same files before is kept as it is.
    """
    turntable, mesh = rendered(run), meshed(run)
    sources = [run.folder.views_path(step) for step in run.view_steps]
    sources += [run.path / name for name in (turntable, mesh) if name]
    key = hashlib.sha256(repr([VERSION, *map(_fingerprint, sources)]).encode()).hexdigest()[:16]
    before = _kept(folder)
    if before is not None and before.key == key:
        return before
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    steps = list(run.view_steps)
    found: dict[str, bytes | None] = {}
    if steps:
        found = {"thumb.webp": thumb(run, steps[-1]), "film.webp": film(run, steps)}
        found["turn.webp"] = None if turntable else turn(run, steps[-1])
    for name, data in found.items():
        if data is not None:
            write_bytes(folder / name, data, durable=False)
    for name, target in ((turntable, "turn.webp"), (mesh, "object.glb")):
        if name:
            _link(run, name, folder / target)
    made = Made(
        key=key,
        steps=steps,
        thumb=found.get("thumb.webp") is not None,
        turn="turntable" if turntable else "ring" if found.get("turn.webp") else "",
        mesh=mesh is not None,
    )
    # Last: it says that all the others are there.
    write_json(folder / "made.json", asdict(made), durable=False)
    return made


def of_truth(ring_VHWC: np.ndarray, media: Path) -> str:
    """The name of a folder in `media` with thumb.webp, and turn.webp of more than one view, of ground truth;
    one of the same views is kept as it is."""
    about = repr([VERSION, ring_VHWC.shape]).encode()
    name = "truth-" + hashlib.sha256(about + ring_VHWC.tobytes()).hexdigest()[:16]
    if _kept(media / name) is None:
        (media / name).mkdir(exist_ok=True)
        write_bytes(media / name / "thumb.webp", _still(ring_VHWC), durable=False)
        if len(ring_VHWC) > 1:
            write_bytes(media / name / "turn.webp", _turning(ring_VHWC), durable=False)
        write_json(media / name / "made.json", asdict(Made(name, [], thumb=True)), durable=False)
    return name


def _views(run: RunRecord, step: int) -> np.ndarray | None:
    try:
        return run.views(step)
    except Exception:  # whatever a damaged picture makes the decoder raise: its place stays empty
        return None


def _still(views_VHWC: np.ndarray) -> bytes:
    return _webp(_at_most(views_VHWC[:1])[0])


def _turning(ring_VHWC: np.ndarray) -> bytes:
    first, *others = map(Image.fromarray, _at_most(ring_VHWC))
    data = io.BytesIO()
    first.save(
        data, "WEBP", save_all=True, append_images=others, duration=FRAME_MS, loop=0, quality=75, method=2
    )
    return data.getvalue()


def _at_most(images_VHWC: np.ndarray) -> np.ndarray:
    return resized(images_VHWC, min(images_VHWC.shape[1], TILE))


def _webp(image_HWC: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image_HWC).save(data, "WEBP", quality=82, method=2)
    return data.getvalue()


def _fingerprint(path: Path) -> tuple[str, int, int]:
    try:
        about = os.lstat(path)
    except OSError:
        return path.name, 0, 0
    return path.name, about.st_mtime_ns, about.st_size


def _kept(folder: Path) -> Made | None:
    try:
        return _MADE.validate_python(read_json(folder / "made.json"))
    except ValidationError:
        return None


def _link(run: RunRecord, name: str, target: Path) -> None:
    """The same file under a second name, or a copy where the disk is another."""
    try:
        os.link(run.path / name, target, follow_symlinks=False)
    except OSError:
        write_bytes(target, run.folder.picture(name), durable=False)
