"""The reading half of a lane: copies what was committed, believes nothing, counts what is missing.

Layout: see `roam.shm.layout`. Ownership: the position is the reader's own; nothing of it is kept in the segment.
Threads: none and no lock; one caller at a time. Failure: damaged bytes become counted gaps, never an exception, and
every loop is bounded by the geometry that was known when the reader was made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

from .layout import PAGE_HEAD, PAGE_HEAD_BYTES, RECORD_HEAD, RECORD_HEAD_BYTES, SEAL

__all__ = ["Chunk", "Gap", "LaneMeasure", "RingReader", "page_records"]

_unpack_head = RECORD_HEAD.unpack_from
_pack_seal = SEAL.pack

RETRIES = 20
"""How many polls a damaged record of a living cell is given to heal before it counts as corrupt."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive, validated records of one page, as raw bytes."""

    lane: int
    page_no: int
    first_seq: int
    count: int
    data: bytes

    def __iter__(self) -> Iterator[tuple[int, int, bytes]]:
        """`(sequence, monotonic_ns, payload)` of each record, oldest first. Safe for any `data`: it stops where a record does not fit."""
        data = self.data
        position, size = 0, len(data)
        for seq in range(self.first_seq, self.first_seq + min(self.count, size // RECORD_HEAD_BYTES)):
            if position + RECORD_HEAD_BYTES > size:
                return
            length, _, time_ns = _unpack_head(data, position)
            stop = position + RECORD_HEAD_BYTES + length
            if stop > size:
                return
            yield seq, time_ns, data[position + RECORD_HEAD_BYTES : stop]
            position = (stop + 7) & ~7


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that will never be delivered: `count` from `first_seq` on, and why (`overwritten` or `corrupt`)."""

    lane: int
    first_seq: int
    count: int
    cause: str


class LaneMeasure(NamedTuple):
    """What page headers say at one moment: `emitted` by the newest commit word; beyond the reader's position,
    `resident` records by the counts of the valid pages and `overwritten` ones that no page holds any more."""

    emitted: int
    resident: int
    overwritten: int


def page_records(data: bytes, first_seq: int, count: int, page_no: int) -> tuple[list[tuple[int, int, int, int]], int]:
    """Validate the bytes of `count` records.

    Returns the sound runs as `(first_seq, count, start, stop)` and how many of `count` are in none of them. A record
    with a wrong checksum but a possible length is stepped over; an impossible length ends the walk.
    """
    view = memoryview(data)
    size = len(data)
    runs: list[tuple[int, int, int, int]] = []
    position = start = sound = 0
    run_first = seq = first_seq
    for seq in range(first_seq, first_seq + count):
        body = position + RECORD_HEAD_BYTES
        if body > size:
            break
        length, crc, time_ns = _unpack_head(view, position)
        stop = body + length
        if stop > size:
            break
        following = (stop + 7) & ~7
        if crc32(_pack_seal(time_ns, length, seq, page_no), crc32(view[body:stop])) != crc:
            if seq > run_first:
                runs.append((run_first, seq - run_first, start, position))
            run_first, start = seq + 1, following
        else:
            sound += 1
        position = following
    else:
        seq = first_seq + count
    if seq > run_first:
        runs.append((run_first, seq - run_first, start, position))
    return runs, count - sound


class RingReader:
    """Reads one lane from first to last, or from what is left of it.

    `read(offset, size)` returns that part of the segment, or fewer bytes where the file has become shorter. It is
    called for one page header or one page's new records at a time, never more than `4 * page_count + 16` times a poll.
    """

    def __init__(
        self,
        read: Callable[[int, int], bytes],
        *,
        lane: int,
        offset: int,
        page_bytes: int,
        page_count: int,
        first_page_no: int = 1,
        first_seq: int = 0,
    ) -> None:
        self._read = read
        self._lane = lane
        self._offset = offset
        self._page_bytes = page_bytes
        self._page_count = page_count
        self._most_records = (page_bytes - PAGE_HEAD_BYTES) // RECORD_HEAD_BYTES
        self._page_no = first_page_no
        self._position = PAGE_HEAD_BYTES
        self._index = 0
        self._retries = 0
        self._resumes_left = 0
        self.next_seq = first_seq
        """The sequence below which everything was delivered or counted as lost."""
        self.delivered = 0
        self.lost = 0

    def poll(self, *, final: bool = False) -> list[Chunk | Gap]:
        """What was committed since the last poll, in order, with a `Gap` where records are missing.

        With `final`, for a segment that nobody writes any more, damage is counted at once instead of being given
        time to heal.
        """
        found: list[Chunk | Gap] = []
        self._resumes_left = self._page_count if final else 2
        for _ in range(2 * self._page_count + 4):
            if not self._step(found, final):
                break
        return found

    def _step(self, found: list[Chunk | Gap], final: bool) -> bool:
        """Take what there is at the position; True if it moved and there may be more."""
        head = self._read_head(self._page_no)
        if head is None or head[0] != self._page_no:
            return self._resume(found, final)
        _, first_seq, count, end = head
        if not self._is_sound(first_seq, count, end):
            return self._give_up(first_seq, count, found, final)
        if count > self._index:
            data = self._read(self._base(self._page_no) + self._position, end - self._position)
            again = self._read_head(self._page_no)
            # r[impl shm.page.copy] A page that was turned during the copy is not this page any more.
            if again is None or again[0] != self._page_no:
                return self._resume(found, final)
            if not self._take(data, count - self._index, end, found, final):
                return False
        return self._advance(found, final)

    def _take(self, data: bytes, count: int, end: int, found: list[Chunk | Gap], final: bool) -> bool:
        runs, missing = page_records(data, self.next_seq, count, self._page_no)
        if missing and not final and self._retries < RETRIES:
            self._retries += 1
            return False
        self._retries = 0
        stop_seq = self.next_seq + count
        for first_seq, run_count, start, stop in runs:
            self._skip_to(first_seq, "corrupt", found)
            found.append(Chunk(self._lane, self._page_no, first_seq, run_count, data[start:stop]))
            self.delivered += run_count
            self.next_seq = first_seq + run_count
        self._skip_to(stop_seq, "corrupt", found)
        self._position, self._index = end, self._index + count
        return True

    def _advance(self, found: list[Chunk | Gap], final: bool) -> bool:
        """Go to the next page if this one is finished; True if there is something to read there or here."""
        following = self._read_head(self._page_no + 1)
        if following is None or following[0] < self._page_no + 1:
            return False
        if following[0] > self._page_no + 1:
            return self._resume(found, final)
        if following[1] == self.next_seq:
            self._enter(self._page_no + 1)
            return True
        # The page got more records before it was turned, or its successor lies about where it begins.
        head = self._read_head(self._page_no)
        if head is not None and head[0] == self._page_no and head[2] > self._index:
            return True
        return self._resume(found, final)

    def _resume(self, found: list[Chunk | Gap], final: bool) -> bool:
        """The page at the position is gone or does not fit: go on at the oldest valid page after it."""
        # r[impl shm.reader.resume]
        if not self._resumes_left:
            return False
        self._resumes_left -= 1
        best: tuple[int, int] | None = None
        for slot in range(self._page_count):
            head = self._read_slot(slot)
            if head is None:
                continue
            page_no, first_seq, count, end = head
            if page_no <= self._page_no or (page_no - 1) % self._page_count != slot:
                continue
            if (
                first_seq < self.next_seq
                or not PAGE_HEAD_BYTES <= end <= self._page_bytes
                or count > self._most_records
            ):
                continue
            if best is None or page_no < best[0]:
                best = (page_no, first_seq)
        if best is None or not (final or self._begins_soundly(*best)):
            return False
        self._skip_to(best[1], "overwritten", found)
        self._enter(best[0])
        return True

    def _begins_soundly(self, page_no: int, first_seq: int) -> bool:
        """Whether the page's first record carries the checksum of exactly this sequence and page."""
        start = self._base(page_no) + PAGE_HEAD_BYTES
        head = self._read(start, RECORD_HEAD_BYTES)
        if len(head) < RECORD_HEAD_BYTES:
            return False
        length = _unpack_head(head, 0)[0]
        if length > self._page_bytes - PAGE_HEAD_BYTES - RECORD_HEAD_BYTES:
            return False
        runs, _ = page_records(self._read(start, RECORD_HEAD_BYTES + length), first_seq, 1, page_no)
        return bool(runs)

    def _give_up(self, first_seq: int, count: int, found: list[Chunk | Gap], final: bool) -> bool:
        """The page's header contradicts what was read from it before, or itself."""
        if not final and self._retries < RETRIES:
            self._retries += 1
            return False
        self._retries = 0
        if self._resume(found, final):
            return True
        if final and first_seq + self._index == self.next_seq and self._index < count <= self._most_records:
            # The count is possible although the bytes cannot be used, and no later page says otherwise.
            self._skip_to(first_seq + count, "corrupt", found)
        return False

    def _skip_to(self, seq: int, cause: str, found: list[Chunk | Gap]) -> None:
        missing = seq - self.next_seq
        if missing > 0:
            found.append(Gap(self._lane, self.next_seq, missing, cause))
            self.lost += missing
            self.next_seq = seq

    def _enter(self, page_no: int) -> None:
        self._page_no, self._position, self._index, self._retries = page_no, PAGE_HEAD_BYTES, 0, 0

    def _is_sound(self, first_seq: int, count: int, end: int) -> bool:
        return (
            first_seq + self._index == self.next_seq
            and self._index <= count <= self._most_records
            and self._position <= end <= self._page_bytes
            and end % 8 == 0
            and (count > self._index) == (end > self._position)
        )

    def measure(self) -> LaneMeasure:
        """Read the page headers once and say what they claim. Exact while nobody writes, and for the moment of its
        newest commit word otherwise."""
        pages: dict[int, tuple[int, int]] = {}
        for slot in range(self._page_count):
            head = self._read_slot(slot)
            if head is None:
                continue
            page_no, first_seq, count, end = head
            if (
                page_no
                and (page_no - 1) % self._page_count == slot
                and count <= self._most_records
                and end <= self._page_bytes
            ):
                pages[page_no] = (first_seq, count)
        if not pages:
            return LaneMeasure(self.next_seq, 0, 0)
        newest = max(pages)
        emitted = pages[newest][0] + pages[newest][1]
        resident, page_no, oldest_seq = 0, newest, emitted
        # Back from the newest page, as long as each page ends where its successor begins.
        while page_no in pages and pages[page_no][0] + pages[page_no][1] == oldest_seq and oldest_seq > self.next_seq:
            first_seq, count = pages[page_no]
            resident += min(count, max(0, oldest_seq - self.next_seq))
            oldest_seq = first_seq
            page_no -= 1
        return LaneMeasure(max(emitted, self.next_seq), resident, max(0, oldest_seq - self.next_seq))

    def _base(self, page_no: int) -> int:
        return self._offset + (page_no - 1) % self._page_count * self._page_bytes

    def _read_head(self, page_no: int) -> tuple[int, int, int, int] | None:
        return self._read_slot((page_no - 1) % self._page_count)

    def _read_slot(self, slot: int) -> tuple[int, int, int, int] | None:
        """`(page_no, first_seq, count, end)` of a slot, None where the file is too short."""
        raw = self._read(self._offset + slot * self._page_bytes, PAGE_HEAD_BYTES)
        if len(raw) < PAGE_HEAD_BYTES:
            return None
        page_no, first_seq, commit = PAGE_HEAD.unpack(raw)
        return page_no, first_seq, commit >> 32, commit & 0xFFFFFFFF
