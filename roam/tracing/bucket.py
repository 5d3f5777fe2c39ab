"""A token bucket: so many at once, then as many as time brings."""

from __future__ import annotations

import time

__all__ = ["Bucket"]


class Bucket:
    """So many tokens, which come back with time. It starts full: `100/h` lets up to 200 through in the first hour.
    Threads: one at a time."""

    __slots__ = ("_level", "_most", "_per_s", "_since")

    def __init__(self, count: int, period_s: float) -> None:
        self._most = self._level = float(count)
        self._per_s = count / period_s
        self._since = time.monotonic()

    def take(self) -> bool:
        """Take a token; False where there is none."""
        now = time.monotonic()
        level = min(self._most, self._level + (now - self._since) * self._per_s)
        self._since = now
        self._level = level - 1 if level >= 1 else level
        return level >= 1
