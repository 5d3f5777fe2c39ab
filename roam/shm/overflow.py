"""What becomes of a record when its lane is full of records that the host has not taken yet."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .layout import HostWord
from .ring import RingWriter
from .words import Words

__all__ = ["DROP_NEWEST", "DROP_OLDEST", "LaneOverflow", "Overflow", "parse_overflow"]

_TAKEN = int(HostWord.TAKEN)
MOST_S = 3600.0
_POLL_S, _LONGEST_POLL_S = 0.0002, 0.001
"""How often a blocked emit looks whether the host has moved: at first, and after a while."""
_BLOCK = re.compile(r"block\(\s*([0-9.eE+-]+)\s*\)")


class Overflow(NamedTuple):
    """One lane's policy. `str` gives the text that `parse_overflow` reads."""

    spares: bool
    """Whether what the host has not taken is kept, and the new record dropped; otherwise the oldest page goes."""
    wait_s: float = 0.0
    """How long an emit waits for the host before its record is dropped. After one wait in vain records are dropped
    at once until the host has taken something."""

    def __str__(self) -> str:
        if self.wait_s:
            return f"block({self.wait_s!r})"
        return "drop_newest" if self.spares else "drop_oldest"


DROP_OLDEST = Overflow(False)
DROP_NEWEST = Overflow(True)


def parse_overflow(text: str) -> Overflow:
    """`drop_oldest`, `drop_newest` or `block(seconds)`, as in `block(0.2)`. Raises `ValueError`."""
    found = _BLOCK.fullmatch(text)
    if found:
        try:
            wait_s = float(found[1])
        except ValueError:
            wait_s = math.nan
        if 0 < wait_s <= MOST_S:
            return Overflow(True, wait_s)
        raise ValueError(f"overflow {text!r}: block takes seconds, more than 0 and at most {MOST_S:g}: block(0.2)")
    for policy in (DROP_OLDEST, DROP_NEWEST):
        if text == str(policy):
            return policy
    raise ValueError(f"overflow {text!r}: expected drop_oldest, drop_newest or block(seconds), as in block(0.2)")


class LaneOverflow:
    """The policies of a segment's lanes, and how full the host has been found. Threads: under the writer's lock, but for
    `await_room`, which only reads."""

    __slots__ = ("_given_up_at", "_used", "_words", "appends", "full_at", "policies")

    def __init__(self, policies: Sequence[Overflow], lanes: Sequence[RingWriter], words: Words) -> None:
        self.policies = tuple(policies)
        """Lane by lane."""
        self._words = words
        # How far the host was when a record was last tried, and when waiting for it was given up; -1 for never.
        self._used = [-1] * len(lanes)
        self._given_up_at = [-1] * len(lanes)
        self.full_at = [-1] * len(lanes)
        """How far it was when the lane took no more."""
        self.appends: list[Callable[[bytes, int, int], bool]] = [
            _sparing_append(ring.append, words, self._used, lane) if policies[lane].spares else ring.append
            for lane, ring in enumerate(lanes)
        ]
        """`RingWriter.append` of each lane, with regard to its policy."""

    def is_still_full(self, lane: int) -> bool:
        """Whether the lane took no more, and the host has not moved since."""
        if not self.policies[lane].spares or self.full_at[lane] != self._words[_TAKEN + lane]:
            return False
        self._used[lane] = self.full_at[lane]
        return True

    def note_full(self, lane: int) -> None:
        """The lane did not take the record that was tried last."""
        self.full_at[lane] = self._used[lane]

    def await_room(self, lane: int, deadline: float, nudge: Callable[[], None]) -> bool:
        """Wait until the host has taken something of a lane that was full; False when `deadline` on `time.monotonic`
        comes first, or came first before and the host has not moved since. Calls `nudge` all the while."""
        at, used, pause = _TAKEN + lane, self._used[lane], _POLL_S
        while self._words[at] == used:
            left = deadline - time.monotonic()
            if left <= 0 or self._given_up_at[lane] == used:
                self._given_up_at[lane] = used
                return False
            nudge()
            time.sleep(min(pause, left))
            pause = min(pause * 2, _LONGEST_POLL_S)
        return True


def _sparing_append(
    append: Callable[[bytes, int, int, int], bool], words: Words, used: list[int], lane: int
) -> Callable[[bytes, int, int], bool]:
    """`RingWriter.append` that overwrites nothing which the host has not taken; notes in `used` how far the host was."""
    at = _TAKEN + lane

    def append_sparing(payload: bytes, crc: int, now: int) -> bool:
        # r[impl shm.overflow.spared] Read twice: the host's store may be seen in halves. Pairs with the collector's store after a poll.
        used[lane] = taken = min(words[at], words[at])
        return append(payload, crc, now, taken)

    return append_sparing
