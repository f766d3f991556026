"""How fast runs are advanced here: what was seen, kept by machine, prior, scene, method and pack."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Mapping

from harness.records.identity import RunSpec, canonical_json
from harness.records.memory import Memory
from harness.sweep.fits import device_name

FRESH_SECONDS = 600.0  # the machine is as busy as it was
SEEN = Memory[dict[int, float]]("paces.json", dict[int, float], days=30)  # by a pack's size


class Paces:
    """Steps per second of a pack on one worker, summed over its runs."""

    def __init__(self, device: str, threads: int, code: Callable[[RunSpec], Mapping[str, str]]):
        self._code = code
        self._machine = [socket.gethostname(), device_name(device), threads]

    def _key(self, spec: RunSpec) -> str:
        return self._hash(spec, spec.method, spec.alike, dict(self._code(spec)))

    def _hash(self, spec: RunSpec, *more: object) -> str:
        settings = [part.model_dump(mode="json") for part in (spec.config.guidance, spec.config.scene)]
        return hashlib.sha256(canonical_json([self._machine, *more, settings]).encode()).hexdigest()[:16]

    def known(self, spec: RunSpec, pack: int) -> float | None:
        """Steps per second of such a pack, or of the one nearest in size; None where none was seen lately."""
        return _nearest(SEEN.recall(self._key(spec)), pack)

    def is_fresh(self, spec: RunSpec, pack: int) -> bool:
        """Whether a pack of just this kind and size was seen a moment ago."""
        return pack in (SEEN.recall(self._key(spec), FRESH_SECONDS) or {})

    def evaluations(self, spec: RunSpec, pack: int) -> float | None:
        """Denoiser evaluations per second of such a pack by what any method did; None where none was seen."""
        return _nearest(SEEN.recall(self._hash(spec)), pack)

    def keep(self, spec: RunSpec, pack: int, rate: float, cost: float) -> None:
        """Remember what such a pack did, whose steps cost so many evaluations."""
        for key, value in ((self._key(spec), rate), (self._hash(spec), rate * cost)):
            SEEN.keep(key, (SEEN.recall(key) or {}) | {pack: round(value, 3)})


def _nearest(rates: Mapping[int, float] | None, pack: int) -> float | None:
    if not rates:
        return None
    nearest = min(rates, key=lambda size: abs(size - pack))
    return rates[nearest] * min(pack / nearest, 1.0)
