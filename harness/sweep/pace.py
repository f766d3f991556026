"""How fast runs are advanced here: what was seen, kept by machine, prior, scene, method and pack."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from harness.records.files import cache_home, read_json, write_cache
from harness.records.identity import RunSpec, canonical_json
from harness.sweep.fits import device_name

FORGET_SECONDS = 30 * 86400.0
MOST_KINDS = 500  # that are remembered


class Paces:
    """Steps per second of a pack on one worker, summed over its runs; a cache that cannot be used is done
    without."""

    def __init__(self, device: str, threads: int, code: Callable[[RunSpec], Mapping[str, str]]):
        self._code = code
        self._machine = [socket.gethostname(), device_name(device), threads]
        self._store = cache_home() / "paces.json"

    def _key(self, spec: RunSpec) -> str:
        config = spec.config
        settings = [part.model_dump(mode="json") for part in (config.guidance, config.scene)]
        asked = [self._machine, spec.method, spec.alike, dict(self._code(spec)), settings]
        return hashlib.sha256(canonical_json(asked).encode()).hexdigest()[:16]

    def known(self, spec: RunSpec, pack: int) -> float | None:
        """Steps per second of such a pack, or of the one nearest in size; None where none was seen lately."""
        found = self._read().get(self._key(spec))
        if found is None:
            return None
        nearest = min(found["rates"], key=lambda size: abs(int(size) - pack))
        return found["rates"][nearest] * (min(pack / int(nearest), 1.0))

    def keep(self, spec: RunSpec, pack: int, rate: float) -> None:
        """Remember what such a pack did."""
        known = self._read()
        key = self._key(spec)
        rates = known.pop(key, {"rates": {}})["rates"] | {str(pack): round(rate, 3)}
        kept = dict(list(known.items())[-MOST_KINDS + 1 :])
        text = json.dumps(kept | {key: {"rates": rates, "time": time.time()}}, indent=1)
        write_cache(self._store, text.encode())

    def _read(self) -> dict[str, Any]:
        found: Any = read_json(self._store)
        try:
            return {k: v for k, v in found.items() if time.time() - v["time"] < FORGET_SECONDS and v["rates"]}
        except (AttributeError, KeyError, TypeError):
            return {}
