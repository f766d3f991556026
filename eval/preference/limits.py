"""How often somebody may ask."""

from __future__ import annotations

import time
from collections import OrderedDict

MAX_KEYS = 20_000


class Limit:
    """A token bucket per key: `burst` at once, then `per_second`. In memory, for one process.

    Of more than `MAX_KEYS` keys the longest unused are forgotten.
    """

    def __init__(self, burst: float, per_second: float):
        self.burst, self.per_second = burst, per_second
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, key: str) -> bool:
        """Whether `key` may ask once more; that counts as asking."""
        now = time.monotonic()
        left, since = self._left.pop(key, (self.burst, now))
        left = min(self.burst, left + (now - since) * self.per_second)
        self._left[key] = (left - 1, now) if left >= 1 else (left, now)
        if len(self._left) > MAX_KEYS:
            self._left.popitem(last=False)
        return left >= 1
