"""What waits inside of a segment's writer: nested records, a `Dropped` record that is being written, whoever gives up."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Announcement", "LockUnavailable", "Nested"]


class LockUnavailable(Exception):
    """The lock's holder will not come back. Never leaves the writer."""


class Nested:
    """A record that a nested call has left for the outer one; or, with `lane` -1, an acknowledgement of `generation`."""

    __slots__ = ("crc", "generation", "lane", "payload", "seq")

    def __init__(self, lane: int, payload: bytes, crc: int, generation: int) -> None:
        self.lane = lane
        self.payload = payload
        self.crc = crc
        self.generation = generation
        self.seq = -1
        """What it is going to be, or is already if the lane has come further; -1 before that is known."""


class Announcement(NamedTuple):
    """A `Dropped` record that is being written: its sequence, the totals that it completes, its body."""

    seq: int
    totals: list[int]
    body: bytes
