"""What became of a record that was handed to a segment's writer."""

from __future__ import annotations

__all__ = ["Outcome"]


class Outcome:
    """What became of a record."""

    WRITTEN = 0
    STALE = 1
    """A newer configuration is in force: judge again."""
    DROPPED = 2
    FULL = 3
    """Nothing was written: the host has to take records first, and the lane's policy is to wait. See `SegmentWriter.await_room`."""
