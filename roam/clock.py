"""Time: one monotonic clock for order, one anchor for the calendar.

Records carry `CLOCK_MONOTONIC` nanoseconds, which all processes of one boot share and nobody can step back.
A `ClockAnchor`, taken once when a segment is created, turns them into wall time for people.
"""

from __future__ import annotations

import time
from typing import NamedTuple

__all__ = ["ClockAnchor"]


_LATEST_NS = (1 << 63) - 1


class ClockAnchor(NamedTuple):
    """A pair of readings of the two clocks, taken together. Both in nanoseconds."""

    wall_ns: int
    monotonic_ns: int

    @classmethod
    def now(cls) -> ClockAnchor:
        """Read both clocks. The wall clock is read between two monotonic readings, whose middle is kept."""
        before = time.monotonic_ns()
        wall = time.time_ns()
        return cls(wall, (before + time.monotonic_ns()) // 2)

    def to_wall_ns(self, monotonic_ns: int) -> int:
        """The wall time of a monotonic reading, in nanoseconds since the epoch, from 0 to the largest signed 64-bit number.

        Bounded, because a reading can come from a cell, and a time of 65 bits would not fit into a dump.
        """
        return min(max(self.wall_ns + (monotonic_ns - self.monotonic_ns), 0), _LATEST_NS)

    def to_monotonic_ns(self, wall_ns: int) -> int:
        """The reverse of `to_wall_ns`."""
        return self.monotonic_ns + (wall_ns - self.wall_ns)
