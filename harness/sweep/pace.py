"""How fast runs are advanced here: what was seen, kept by machine, prior, scene, method and pack."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Mapping

from harness.records.identity import RunSpec, canonical_json
from harness.records.memory import Memory
from harness.sweep.fits import device_name

SEEN = Memory[dict[int, float]]("paces.json", dict[int, float], days=30)  # by a pack's size


class Paces:
    """Steps per second of a pack on one worker, summed over its runs."""

    def __init__(self, device: str, threads: int, code: Callable[[RunSpec], Mapping[str, str]]):
        self._code = code
        self._machine = [socket.gethostname(), device_name(device), threads]

    def _key(self, spec: RunSpec) -> str:
        config = spec.config
        settings = [part.model_dump(mode="json") for part in (config.guidance, config.scene)]
        asked = [self._machine, spec.method, spec.alike, dict(self._code(spec)), settings]
        return hashlib.sha256(canonical_json(asked).encode()).hexdigest()[:16]

    def known(self, spec: RunSpec, pack: int) -> float | None:
        """Steps per second of such a pack, or of the one nearest in size; None where none was seen lately."""
        rates = SEEN.recall(self._key(spec))
        if not rates:
            return None
        nearest = min(rates, key=lambda size: abs(size - pack))
        return rates[nearest] * min(pack / nearest, 1.0)

    def keep(self, spec: RunSpec, pack: int, rate: float) -> None:
        """Remember what such a pack did."""
        key = self._key(spec)
        SEEN.keep(key, (SEEN.recall(key) or {}) | {pack: round(rate, 3)})
