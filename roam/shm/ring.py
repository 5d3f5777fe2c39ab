"""The writing half of a lane: a ring of pages that one process fills, forgetting the oldest page when it is full.

Layout: see `roam.shm.layout`. Ownership: one `RingWriter` per lane in one process. Threads: none of its own and no
lock; the caller serialises. Failure: a kill between any two stores leaves what was committed readable, and an
exception raised by a signal handler leaves a record wholly in or wholly out: all private state is one tuple that is
replaced by one store, directly after the commit store, with no call in between.
"""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

from .layout import PAGE_HEAD_BYTES, RECORD_HEAD, RECORD_HEAD_BYTES, SEAL
from .words import Words

__all__ = ["RingWriter"]

_pack_head = RECORD_HEAD.pack
_pack_seal = SEAL.pack

_ONE_RECORD = 1 << 32
"""One more in the count half of a commit word."""


def _always() -> bool:
    return True


def _never() -> bool:
    return False


class RingWriter:
    """Appends records to a lane.

    `memory` and `words` are two views of one zeroed buffer, in which the lane's `page_count` pages of `page_bytes`
    start at `offset`. `may_turn` is asked before a page is overwritten; a false answer refuses the append (the
    caller uses it to look whether this process is still the one that owns the lane). `first_page_no` and
    `first_seq` exist for tests of very long lives.
    """

    __slots__ = ("_firsts", "_may_turn", "_memory", "_offset", "_page_bytes", "_page_count", "_state", "_words")

    def __init__(
        self,
        memory: memoryview,
        words: Words,
        *,
        offset: int,
        page_bytes: int,
        page_count: int,
        may_turn: Callable[[], object] = _always,
        first_page_no: int = 1,
        first_seq: int = 0,
    ) -> None:
        self._memory = memory
        self._words = words
        self._offset = offset
        self._page_bytes = page_bytes
        self._page_count = page_count
        self._may_turn = may_turn
        # page_no, index of the commit word, end of the page, start of the next record (both in `memory`), the commit
        # word, next sequence. A page number before the first, with no room, makes the first append turn to the first.
        self._state = (first_page_no - 1, 0, 0, 0, 0, first_seq)
        # The first sequence of each slot's page, for `append(taken=…)`; private, never read from the segment.
        self._firsts = [first_seq] * page_count

    @property
    def emitted(self) -> int:
        """The sequence number that the next record will get."""
        return self._state[5]

    @property
    def largest_bytes(self) -> int:
        """The longest payload that a page of this lane can hold."""
        return self._page_bytes - PAGE_HEAD_BYTES - RECORD_HEAD_BYTES

    def append(self, payload: bytes, payload_crc: int, time_ns: int, taken: int | None = None) -> bool:
        """Commit one record. `payload_crc` is `crc32(payload)`, which the caller computes outside its lock.

        With `taken`, the sequence below which the reader has copied everything, a page that holds records at or
        above it is not overwritten. Returns False, with nothing changed, where the page could not be turned, or
        where no page can hold the payload.
        """
        page_no, at, limit, start, commit, seq = self._state
        length = len(payload)
        stop = start + RECORD_HEAD_BYTES + length
        if stop > limit:
            if length > self.largest_bytes or not self._turn(taken):
                return False
            page_no, at, limit, start, commit, seq = self._state
            stop = start + RECORD_HEAD_BYTES + length
        crc = crc32(_pack_seal(time_ns, length, seq, page_no), payload_crc)
        # Bytes beyond the published end: nobody reads them before the commit below.
        self._memory[start:stop] = _pack_head(length, crc, time_ns) + payload
        size = (length + RECORD_HEAD_BYTES + 7) & ~7
        commit += _ONE_RECORD + size
        state = (page_no, at, limit, start + size, commit, seq + 1)
        # r[impl shm.record.commit] One aligned store publishes bytes and count: pairs with RingReader._read_head.
        self._words[at] = commit
        self._state = state
        return True

    def retire(self, memory: memoryview, words: Words) -> None:
        """In a forked child: refuse every append. One that the fork interrupted ends in `memory` and `words`, which
        are nobody's; they are as large as the segment."""
        self._may_turn = _never
        page_no, at, _, _, _, seq = self._state
        self._state = (page_no, at, 0, 0, 0, seq)
        self._memory = memory
        self._words = words

    def _turn(self, taken: int | None) -> bool:
        page_no, _, _, _, _, first_seq = self._state
        page_no += 1
        slot = (page_no - 1) % self._page_count
        # The slot's records end where the next older page begins; before the first lap there are none.
        following = self._firsts[(slot + 1) % self._page_count]
        if taken is not None and page_no > self._page_count and taken < following:
            return False
        if not self._may_turn():
            return False
        base = self._offset + slot * self._page_bytes
        at = base >> 3
        state = (page_no, at + 2, base + self._page_bytes, base + PAGE_HEAD_BYTES, PAGE_HEAD_BYTES, first_seq)
        words = self._words
        # r[impl shm.page.turn] Invalid first, valid last: pairs with RingReader, which reads page_no before and
        # after its copy. A kill in between leaves a page that nobody takes for valid.
        words[at] = 0
        words[at + 2] = PAGE_HEAD_BYTES
        words[at + 1] = first_seq
        words[at] = page_no
        self._state = state
        self._firsts[slot] = first_seq
        return True
