"""Writing files so that a reader, or a power cut, never sees half of one."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from harness.config import UserError, first_line
from harness.records.reader import RecordError, parse_json, read_descriptor

if TYPE_CHECKING:
    import numpy as np

JSON_BYTES = 2**26
PIXELS = 2**27  # of the largest picture that is decoded
_counter = itertools.count()
_ASIDE = re.compile(r"\.[^/]+\.\d+\.\d+\.tmp")


class DiskFull(UserError):
    """No space (or quota) left where the runs are kept."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a read-only folder, and a folder in a file's place into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"no space left on the disk of {path.parent}: free some, then run the same command again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"cannot write {path}: {os.strerror(error.errno)}") from error
        if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENOTEMPTY):
            raise RecordError(f"cannot write {path}: something else is there") from error
        raise


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


def strip(images_VHWC: np.ndarray) -> bytes:
    """Square tiles, uint8 [V, H, H, 3], side by side as a PNG; `tiles` reads them back."""
    from PIL import Image

    views, height, width, channels = images_VHWC.shape
    data = io.BytesIO()
    Image.fromarray(images_VHWC.swapaxes(0, 1).reshape(height, views * width, channels)).save(data, "PNG")
    return data.getvalue()


def tiles(data: bytes) -> np.ndarray:
    """The square tiles of a strip, uint8 [V, H, H, 3]; raises ValueError for what is no such picture."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > PIXELS:
                raise ValueError(f"{image.width} × {image.height} pixels are too many")
            strip = np.asarray(image.convert("RGB"))
    except Exception as error:  # whatever a damaged picture makes the decoder raise
        raise ValueError(f"no readable picture ({first_line(error)})") from error
    height = strip.shape[0]
    if strip.shape[1] % height:
        raise ValueError(f"{strip.shape[1]} × {height} pixels are no row of squares")
    return strip.reshape(height, -1, height, 3).swapaxes(0, 1)


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


def read_json(path: Path) -> Any | None:
    """The JSON in a file, or in what a link to one leads to; None where there is none that can be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return parse_json(read_descriptor(descriptor, path.name, JSON_BYTES))
        finally:
            os.close(descriptor)
    except (OSError, ValueError, RecordError):
        return None
