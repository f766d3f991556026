"""Writing files so that a reader, or a power cut, never sees half of one; reading what people wrote."""

from __future__ import annotations

import codecs
import errno
import io
import itertools
import json
import os
import re
import stat
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from harness.config import UserError, first_line
from harness.records.reader import RecordError, parse_json, read_descriptor

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

JSON_BYTES = 2**26
_counter = itertools.count()
MOST_TEXT = 64 << 20  # bytes; a device file has no end
NAME_BYTES = 220  # of a file: systems take 255, and a name is longer while it is written
_ASIDE = re.compile(r"\.[^/]+\.\d+\.\d+\.tmp")
# What a name or a mount refuses, whatever is written; and what is refused since something else is there.
_REFUSED = {getattr(errno, name) for name in ("EACCES", "EPERM", "EROFS", "EEXIST", "ENAMETOOLONG")}
_TAKEN = {getattr(errno, name) for name in ("EISDIR", "ENOTDIR", "ELOOP", "ENXIO", "ENOTEMPTY")}


class NoSuchFile(UserError):
    """There is nothing of that name."""


class DiskFull(UserError):
    """No space (or quota) left where the runs are kept."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a place that cannot be written to, and a folder in a file's place into one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"no space left on the disk of {path.parent}: free some, then run the same command again"
            ) from error
        if error.errno in _REFUSED:
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        if error.errno in _TAKEN:
            raise RecordError(f"cannot write {path}: something else is there ({error.strerror})") from error
        raise


def make_folder(path: Path) -> Path:
    """`path`, made with its parents where it is missing; every reason why it cannot be is a UserError."""
    try:
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {error.strerror or error}") from error
    return path


def check_folder(path: Path) -> None:
    """Raises UserError unless `path` is a folder that can be written to, or can become one.

    Tried, not looked up: modes do not tell what a mount or a file server allows. Nothing is left behind.
    """
    places = (path.absolute(), *path.absolute().parents)
    place = next((place for place in places if os.path.lexists(place)), Path("/"))
    if not os.path.isdir(place):
        what = "a file" if os.path.exists(place) else "a link to nothing"
        raise UserError(f"{place} is {what}, no folder")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {place}: {error.strerror or error}") from None


def check_file(path: Path) -> None:
    """Raises UserError unless a file can be written, or replaced, at `path`; nothing is left behind."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{path} is {'a folder' if os.path.isdir(path) else 'no ordinary file'}")
    check_folder(path.absolute().parent)
    if len(os.fsencode(path.name)) > NAME_BYTES:
        raise UserError(f"cannot write {path}: its name is too long")


def cache_home() -> Path:
    """The user's cache folder of this package; a temporary one where there is no home."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no HOME, and a user that nobody knows, as in containers
        base = Path(tempfile.gettempdir())
    return base / "dreamtime-harness"


def write_cache(path: Path, data: bytes) -> None:
    """`write_bytes` with its folder; a cache that cannot be written is done without."""
    with suppress(OSError, UserError):
        make_folder(path.parent)
        write_bytes(path, data)


def aside(path: Path) -> Path:
    """A name of this process alone beside `path`, for what is then renamed to it."""
    return path.with_name(f".{path.name}.{os.getpid()}.{next(_counter)}.tmp")


def is_aside(name: str) -> bool:
    """Whether a name is one of `aside`."""
    return _ASIDE.fullmatch(name) is not None


def open_regular(path: Path) -> BinaryIO:
    """A regular file, or what a link to one leads to, for reading; raises OSError, for a FIFO at once."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return os.fdopen(descriptor, "rb")


def open_to_append(path: Path) -> BinaryIO:
    """A regular file to append to, made where it is missing; raises OSError where a link or a FIFO is."""

    def plain(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)

    return open(path, "ab", opener=plain)


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace `path` by `data` in one go; `durable` first waits until the data is on disk.

    A power cut then leaves the old file or the new one. Raises DiskFull; the old file is then untouched.
    """
    temporary = aside(path)
    with disk_errors(path):
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


LARGEST_IMAGE = 50_000_000  # pixels; a strip of 16 views of 1024² has a third of that


class ImageTooLarge(OSError):
    """A picture whose decoding would take long and much memory."""


@contextmanager
def open_image(path: Path | BinaryIO) -> Iterator[Image]:
    """A picture of any origin, not decoded yet. ImageTooLarge above LARGEST_IMAGE; OSError for no picture."""
    from PIL import Image as pillow

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pillow.DecompressionBombWarning)
            image = pillow.open(path)
    except (ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise OSError(f"not a readable picture: {error}") from error
    with image:
        if image.width * image.height > LARGEST_IMAGE:
            raise ImageTooLarge(f"{image.width} × {image.height} pixels are more than {LARGEST_IMAGE:.0e}")
        yield image


def strip(images_VHWC: np.ndarray) -> bytes:
    """Square tiles, uint8 [V, H, H, 3], side by side as a PNG; `tiles` reads them back."""
    from PIL import Image

    views, height, width, channels = images_VHWC.shape
    data = io.BytesIO()
    Image.fromarray(images_VHWC.swapaxes(0, 1).reshape(height, views * width, channels)).save(data, "PNG")
    return data.getvalue()


def tiles(data: bytes) -> np.ndarray:
    """The square tiles of a strip, uint8 [V, H, H, 3]; raises ValueError for what is no such picture, and
    ImageTooLarge."""
    import numpy as np

    try:
        with open_image(io.BytesIO(data)) as image:
            strip = np.asarray(image.convert("RGB"))
    except ImageTooLarge:
        raise
    except Exception as error:  # whatever a damaged picture makes the decoder raise
        raise ValueError(f"no readable picture ({first_line(error)})") from error
    height = strip.shape[0]
    if strip.shape[1] % height:
        raise ValueError(f"{strip.shape[1]} × {height} pixels are no row of squares")
    return strip.reshape(height, -1, height, 3).swapaxes(0, 1)


def resized(images_VHWC: np.ndarray, side: int, way: str = "BOX") -> np.ndarray:
    """Square uint8 pictures at another side, by one of Pillow's ways; BOX averages over areas."""
    import numpy as np
    from PIL import Image

    if images_VHWC.shape[1] == side:
        return images_VHWC
    pictures = (Image.fromarray(image).resize((side, side), Image.Resampling[way]) for image in images_VHWC)
    return np.stack([np.asarray(picture) for picture in pictures])


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """`write_bytes` of indented JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode(), durable=durable)


def read_text(path: Path) -> str:
    """The text of a file that people write: UTF-8, without byte-order marks, wherever they stand in it.

    Raises NoSuchFile, and UserError where it cannot be read or is in another encoding.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_TEXT + 1)
    except FileNotFoundError:
        raise NoSuchFile(f"no file {path}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    if len(data) > MOST_TEXT:
        raise UserError(f"{path} is no text that people write: more than {MOST_TEXT >> 20} MiB")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data[:4096]:
        raise UserError(f"{path} is no UTF-8 text (UTF-16 or binary): save it as UTF-8")
    try:
        return data.decode().replace("\ufeff", "")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} is no UTF-8 text (line {line}): save it as UTF-8") from None


def read_json(path: Path) -> Any | None:
    """The JSON in a file, or in what a link to one leads to; None where there is none that can be read."""
    try:
        with open_regular(path) as file:
            return parse_json(read_descriptor(file.fileno(), path.name, JSON_BYTES))
    except (OSError, ValueError, RecordError):
        return None
