"""The pictures of a study: nothing about them but what they show tells two runs apart.

One still picture per run and use, its frames side by side: the page turns both objects of a pair in step,
stops them, and steps through them, which an animated file allows no page to do. All are encoded alike, carry
no metadata, have names drawn at random, and are padded with random bytes to one size; a run that is shown in
two pairs has two names and two files of different bytes.
"""

from __future__ import annotations

import io
import secrets
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageSequence

from harness.config import UserError, first_line
from harness.records.files import open_image, write_bytes
from harness.records.reader import RecordError

SIDE = 384  # pixels of a frame
FRAMES = 40  # of a turn; 40 · 384 is within the 16 383 pixels that WebP allows
QUALITY = 82

if TYPE_CHECKING:
    from eval.sources.load import RunRecord

Two = tuple["RunRecord", str, "RunRecord", str]  # a run and its method as tables name it, and another


def write_media(folder: Path, uses: Sequence[Two]) -> list[tuple[str, str]]:
    """Two pictures per pair of runs into `folder`; the two names of each pair.

    From the runs' turntables where all of them have one, else from the rings of views that all have stored.
    Raises UserError where a run's views cannot be read or their numbers differ.
    """
    runs = {run.run_id: run for one, _, other, _ in uses for run in (one, other)}
    turned = all(run.folder.has(_turntable(run)) for run in runs.values())
    folder.mkdir()
    coded: dict[str, Path] = {}  # on disk: those of a large sweep take gigabytes
    counts: dict[int, str] = {}
    for run in runs.values():
        frames_FHWC = _turn(run) if turned else _ring(run)
        counts[len(frames_FHWC)] = run.run_id
        coded[run.run_id] = folder / f"{run.run_id}.tmp"
        write_bytes(coded[run.run_id], encode(frames_FHWC), durable=False)
    if len(counts) > 1:
        raise UserError(f"runs with different numbers of views: {', '.join(counts.values())}")
    size = (max(path.stat().st_size for path in coded.values()) + 65) // 2 * 2
    names = []
    for one, _, other, _ in uses:
        two = secrets.token_hex(16) + ".webp", secrets.token_hex(16) + ".webp"
        for name, run in zip(two, (one, other), strict=True):
            write_bytes(folder / name, pad(coded[run.run_id].read_bytes(), size))
        names.append(two)
    for path in coded.values():
        path.unlink()
    return names


def n_frames(path: Path) -> int:
    """How many frames a picture of `write_media` has. Raises UserError where it cannot be read."""
    try:
        with open_image(path) as picture:
            return picture.width // picture.height
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}): the study's folder is not whole") from None


def _turntable(run: RunRecord) -> str:
    return str((run.folder.turntable / "colour.webp").relative_to(run.path))


def _turn(run: RunRecord) -> np.ndarray:
    """FRAMES evenly spaced moments of the run's turntable, uint8 [F, H, W, 3].

    Moments, not frames: an encoder makes one long frame of equal ones, so that files differ in their number.
    """
    try:
        with open_image(io.BytesIO(run.folder.picture(_turntable(run)))) as movie:
            frames, ends = [], [0]
            for frame in ImageSequence.Iterator(movie):
                frames.append(np.asarray(frame.convert("RGB")))
                ends.append(ends[-1] + max(1, frame.info.get("duration", 1)))
    except Exception as error:  # whatever a damaged film makes the decoder raise
        path = run.path / _turntable(run)
        raise UserError(f"{path} cannot be read ({first_line(error)}); make it anew or delete it") from None
    moments_F = np.arange(FRAMES) / FRAMES * ends[-1]
    return np.stack([frames[at] for at in np.searchsorted(ends[1:], moments_F, side="right")])


def _ring(run: RunRecord) -> np.ndarray:
    """The last step's ring of views, uint8 [F, H, W, 3]."""
    try:
        return run.views(run.total)[: run.config.views.azimuths][:FRAMES]
    except (OSError, ValueError, RecordError) as error:
        raise UserError(f"{run.run_id}: its last views cannot be read ({error})") from None


def encode(frames_FHWC: np.ndarray) -> bytes:
    """Frames side by side as a lossy WebP of F · SIDE × SIDE pixels without metadata."""
    strip = Image.new("RGB", (len(frames_FHWC) * SIDE, SIDE))
    for index, frame in enumerate(frames_FHWC):
        scaled = Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        strip.paste(scaled, (index * SIDE, 0))
    data = io.BytesIO()
    strip.save(data, "WEBP", quality=QUALITY, method=4)
    return data.getvalue()


def pad(webp: bytes, size: int) -> bytes:
    """The same picture in a file of exactly `size` bytes, at least 64 more than it has, filled at random.

    Decoders skip an unknown chunk at the end; one is allowed in the extended format, which is therefore what
    is written. Source: Google, WebP Container Specification, "Extended File Format" and "Unknown Chunks".
    """
    with Image.open(io.BytesIO(webp)) as picture:
        width, height = picture.size
    if webp[12:16] != b"VP8 ":
        raise ValueError("pad wants a simple lossy WebP")
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + _chunk(b"VP8X", b"\0\0\0\0" + canvas) + webp[12:]
    fill = size - 8 - len(body) - 8
    if fill < 0 or size % 2:
        raise ValueError(f"{size} bytes do not hold the picture")
    body += _chunk(b"PADD", secrets.token_bytes(fill))
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
