"""What a machine remembers from one command to the next, in the user's cache folder."""

from __future__ import annotations

import json
import time
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from harness.records.files import cache_home, read_json, write_cache

T = TypeVar("T")
MOST = 500  # things that are remembered


class Memory(Generic[T]):
    """Values of one kind by key, each forgotten after some days; what cannot be read is as good as forgotten,
    what cannot be written is done without."""

    def __init__(self, name: str, kind: Any, days: float):
        self._name, self._seconds = name, days * 86400
        self._seen: tuple[object, dict[str, tuple[float, T]]] = (None, {})  # a state of the file, read once
        self._form = TypeAdapter(dict[str, tuple[float, kind]])  # pyright: ignore[reportInvalidTypeForm]

    def recall(self, key: str, seconds: float = float("inf")) -> T | None:
        """The value of a key; None where there is none, or none that was kept in the last `seconds`."""
        kept, value = self._read().get(key, (0.0, None))
        return value if time.time() - kept < seconds else None

    def keep(self, key: str, value: T) -> None:
        """Remember it from now on."""
        known = {other: each for other, each in self._read().items() if other != key}
        kept = dict(list(known.items())[1 - MOST :]) | {key: (time.time(), value)}
        write_cache(cache_home() / self._name, json.dumps(kept, indent=1).encode())

    def _read(self) -> dict[str, tuple[float, T]]:
        path = cache_home() / self._name
        try:
            about = path.stat()
            state = (path, about.st_ino, about.st_mtime_ns, about.st_size)
            if state != self._seen[0]:
                self._seen = (state, self._form.validate_python(read_json(path)))
        except (OSError, ValidationError):
            return {}
        found = self._seen[1]
        return {key: each for key, each in found.items() if time.time() - each[0] < self._seconds}
