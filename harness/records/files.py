"""Writing files so that a reader, or a power cut, never sees half of one."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import UserError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

_counter = itertools.count()


class DiskFull(UserError):
    """No space (or quota) left where the runs are kept."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk and a read-only folder into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"no space left on the disk of {path.parent}: free some, then run the same command again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"cannot write {path}: {os.strerror(error.errno)}") from error
        raise


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace `path` by `data` in one go; `durable` first waits until the data is on disk.

    A power cut then leaves the old file or the new one. Raises DiskFull; the old file is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{next(_counter)}.tmp")
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
def open_image(path: Path) -> Iterator[Image]:
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


def tiles(path: Path) -> np.ndarray:
    """The square tiles of a strip, uint8 [V, H, H, 3]."""
    import numpy as np

    with open_image(path) as image:
        strip = np.asarray(image.convert("RGB"))
    height = strip.shape[0]
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
    """The JSON in `path`; None where there is no file or it is not whole."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
