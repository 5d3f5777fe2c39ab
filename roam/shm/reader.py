"""The reading half of a lane: copies what was committed, believes nothing, counts what is missing.

Layout: see `roam.shm.layout`. Ownership: the position is the reader's own; nothing of it is kept in the segment.
Threads: none and no lock; one caller at a time. Failure: damaged bytes become counted gaps, never an exception, and
every loop is bounded by the geometry that was known when the reader was made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from .chunk import Chunk, Gap, offset_of_record, page_records
from .layout import PAGE_HEAD, PAGE_HEAD_BYTES, RECORD_HEAD_BYTES
from .words import MASK

__all__ = ["Chunk", "Gap", "LaneMeasure", "RingReader", "page_records"]

RETRIES = 20
"""How many polls a damaged record of a living cell is given to heal before it counts as corrupt."""


class LaneMeasure(NamedTuple):
    """What page headers say at one moment: `emitted` by the newest commit word; beyond the reader's position,
    `resident` records by the counts of the valid pages and `overwritten` ones that no page holds any more."""

    emitted: int
    resident: int
    overwritten: int


class _Head(NamedTuple):
    """A page header as it was read."""

    page_no: int
    first_seq: int
    records: int
    end: int


_NO_PAGE = _Head(0, 0, 0, 0)


class _Survivors(NamedTuple):
    """Pages that could be gone on with, by number; `doubtful` are those without a sound record."""

    fresh: deque[_Head]
    doubtful: deque[_Head]
    newest_page_no: int


class RingReader:
    """Reads one lane from first to last, or from what is left of it.

    `read(offset, size)` returns that part of the segment, or fewer bytes where the file has become shorter. It is
    called for one page header or one page's records at a time, at most `16 * page_count + 32` times a poll.
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
        # How often the page to go on with was not there, and which page was found unsound how often.
        self._absences = 0
        self._doubted_page_no = self._doubts = 0
        self._resumes_left = 0
        self._survivors: _Survivors | None = None
        self._has_begun = False
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
        self._resumes_left = self._page_count + 1 if final else 2
        self._survivors = None
        for _ in range((2 if final else 1) * self._page_count + 4):
            if not self._step(found, final):
                break
        return found

    def _step(self, found: list[Chunk | Gap], final: bool) -> bool:
        """Take what there is at the position; True if it moved and there may be more."""
        head = self._read_head(self._page_no)
        if head is None or head.page_no != self._page_no:
            # Gone, or not there yet.
            return self._resume(found, final) if self._has_begun else self._on_absence(head, found, final)
        if not self._is_sound(head):
            return self._give_up(head, found, final)
        if head.records > self._index:
            data = self._read(self._base(self._page_no) + self._position, head.end - self._position)
            again = self._read_head(self._page_no)
            # r[impl shm.page.copy] A page that was turned during the copy is not this page any more.
            if again is None or again.page_no != self._page_no:
                return self._resume(found, final)
            if not self._take(data, head, found, final):
                return False
        return self._advance(found, final)

    def _take(self, data: bytes, head: _Head, found: list[Chunk | Gap], final: bool) -> bool:
        count = head.records - self._index
        runs, missing = page_records(data, self.next_seq, count, self._page_no)
        if missing and not final and self._retries < RETRIES:
            self._retries += 1
            return False
        self._retries = 0
        stop_seq = self.next_seq + count
        # Where the records end, by themselves; the header's word only counts where the last of them is damaged.
        sound_seq = runs[-1][0] + runs[-1][1] if runs else self.next_seq
        self._position = self._position + runs[-1][3] if sound_seq == stop_seq else head.end
        if missing:
            following = self._read_head(self._page_no + 1)
            is_next = following is not None and following.page_no == self._page_no + 1
            if following is not None and is_next and sound_seq <= following.first_seq < stop_seq:
                # The header claims more than there was.
                stop_seq = following.first_seq
        self._index = stop_seq - head.first_seq
        self._has_begun = True
        for first_seq, run_count, start, stop in runs:
            self._skip_to(first_seq, "corrupt", found)
            found.append(Chunk(self._lane, self._page_no, first_seq, run_count, data[start:stop]))
            self.delivered += run_count
            self.next_seq = first_seq + run_count
        self._skip_to(stop_seq, "corrupt", found)
        return True

    def _advance(self, found: list[Chunk | Gap], final: bool) -> bool:
        """Go to the next page if this one is finished; True if there is something to read there or here."""
        following = self._read_head(self._page_no + 1)
        if following is None or following.page_no != self._page_no + 1:
            return self._on_absence(following, found, final)
        if following.first_seq <= self.next_seq <= following.first_seq + following.records:
            self._enter(following)
            return True
        # The page got more records before it was turned, or its successor lies about where it begins.
        head = self._read_head(self._page_no)
        if head is not None and head.page_no == self._page_no and head.records > self._index:
            return True
        return self._resume(found, final)

    def _on_absence(self, head: _Head | None, found: list[Chunk | Gap], final: bool) -> bool:
        """Another page is where the next records should be: a newer one, or, most of the time, an older one or none.

        The latter is how a lane looks that has nothing new; only now and then it is worth a look at all pages,
        because it is also how a damaged page number looks.
        """
        if not final and (head is None or head.page_no <= self._page_no):
            self._absences += 1
            if self._absences < RETRIES:
                return False
        self._absences = 0
        return self._resume(found, final)

    def _resume(self, found: list[Chunk | Gap], final: bool) -> bool:
        """The page at the position is gone or does not fit: go on at the oldest valid page after it."""
        # r[impl shm.reader.resume]
        if not self._resumes_left:
            return False
        self._resumes_left -= 1
        if final and self._survivors is not None:
            survivors = self._survivors
        else:
            heads = self._survey()
            self._survivors = survivors = _Survivors(
                deque(heads), deque(), max((head.page_no for head in heads), default=0)
            )
        best = self._choose_finally(survivors) if final else self._choose(survivors)
        if best is None:
            return False
        here = self._read_head(self._page_no)
        if here is not None and here.page_no == self._page_no and here.records > self._index and self._is_sound(here):
            # This page got its last records after it was looked at, and before the next one was begun.
            return True
        lapping = best.page_no - 2 + self._page_count
        was_lapped = survivors.newest_page_no >= lapping or (not final and self._is_reached(lapping))
        self._skip_to(best.first_seq, "overwritten" if was_lapped else "corrupt", found)
        self._enter(best)
        return True

    def _is_reached(self, page_no: int) -> bool:
        """Whether the writer has come to a page, perhaps while the headers were read one by one."""
        heads: dict[int, _Head] = {}
        # Two neighbours are not turned at once; a fast writer may turn the one, then the other, in front of each look.
        for other in (page_no, page_no + 1) * 3:
            self._note(heads, self._read_head(other), (other - 1) % self._page_count)
        return max(heads, default=0) >= page_no

    def _choose(self, survivors: _Survivors) -> _Head | None:
        """The oldest page that can be believed. One that cannot is given time, like a damaged record, then left out until
        it can: it may have had no record yet."""
        for head in survivors.fresh:
            if self._is_behind(head):
                continue
            if self._has_sound_record(head):
                return head
            if head.page_no > self._doubted_page_no:
                self._doubted_page_no, self._doubts = head.page_no, 0
            if head.page_no == self._doubted_page_no and self._doubts < RETRIES:
                self._doubts += 1
                # Look again with the next poll.
                self._retries = self._absences = RETRIES
                return None
        return None

    def _choose_finally(self, survivors: _Survivors) -> _Head | None:
        """The oldest page with a sound record, then what is left: no page is looked at twice."""
        for queue in (survivors.fresh, survivors.doubtful):
            while queue:
                head = queue.popleft()
                if self._is_behind(head):
                    continue
                if queue is survivors.doubtful or self._has_sound_record(head):
                    return head
                survivors.doubtful.append(head)
        return None

    def _has_sound_record(self, head: _Head) -> bool:
        """Whether any record of the page carries the checksum of exactly its sequence and page."""
        data = self._read(self._base(head.page_no) + PAGE_HEAD_BYTES, head.end - PAGE_HEAD_BYTES)
        return bool(page_records(data, head.first_seq, head.records, head.page_no)[0])

    def _give_up(self, head: _Head, found: list[Chunk | Gap], final: bool) -> bool:
        """The page's header contradicts what was read from it before, or itself."""
        if not final and self._retries < RETRIES:
            self._retries += 1
            return False
        self._retries = 0
        if self._resume(found, final):
            return True
        begins_here = head.first_seq + self._index == self.next_seq
        if final and begins_here and self._index < head.records <= self._most_records:
            # The count is possible although the bytes cannot be used, and no later page says otherwise.
            self._index = head.records
            self._skip_to(head.first_seq + head.records, "corrupt", found)
        return False

    def _skip_to(self, seq: int, cause: str, found: list[Chunk | Gap]) -> None:
        missing = seq - self.next_seq
        if missing > 0:
            found.append(Gap(self._lane, self.next_seq, missing, cause))
            self.lost += missing
            self.next_seq = seq

    def _enter(self, head: _Head) -> None:
        self._has_begun = True
        self._page_no, self._position, self._index = head.page_no, PAGE_HEAD_BYTES, 0
        self._retries = self._absences = 0
        surplus = self.next_seq - head.first_seq
        if surplus > 0:
            # A damaged header before claimed records that there were not; they have been counted as lost.
            data = self._read(self._base(head.page_no) + PAGE_HEAD_BYTES, head.end - PAGE_HEAD_BYTES)
            self._index = surplus
            self._position += offset_of_record(data, surplus)

    def _is_behind(self, head: _Head) -> bool:
        """Whether a page holds nothing that could still be delivered."""
        stop_seq = head.first_seq + head.records
        return head.page_no <= self._page_no or stop_seq <= self.next_seq > head.first_seq

    def _is_sound(self, head: _Head) -> bool:
        return (
            head.first_seq + self._index == self.next_seq
            and self._index <= head.records <= self._most_records
            and self._position <= head.end <= self._page_bytes
            and head.end % 8 == 0
            and (head.records > self._index) == (head.end > self._position)
        )

    def measure(self) -> LaneMeasure:
        """Read the page headers once and say what they claim. Exact while nobody writes, and for the moment of its
        newest commit word otherwise."""
        heads = self._survey()
        if not heads:
            return LaneMeasure(self.next_seq, 0, 0)
        emitted = max(heads[-1].first_seq + heads[-1].records, self.next_seq)
        resident = 0
        later: _Head | None = None
        for head in reversed(heads):
            stop_seq = head.first_seq + head.records
            if later is not None:
                if head.first_seq > later.first_seq:
                    continue
                # A header may have been read before the page's last records were written; the next page knows better.
                stop_seq = later.first_seq if later.page_no == head.page_no + 1 else min(stop_seq, later.first_seq)
            resident += max(0, stop_seq - max(head.first_seq, self.next_seq))
            later = head
        return LaneMeasure(emitted, resident, emitted - self.next_seq - resident)

    def _survey(self) -> list[_Head]:
        """The headers, by page number, of the page at the position and the pages after it that can be what they say."""
        heads: dict[int, _Head] = {}
        for slot in range(self._page_count):
            self._note(heads, self._read_slot(slot), slot)
        # While they were read one by one the writer may have turned pages whose slots had been read before.
        newest = max(heads, default=0)
        for page_no in range(max(self._page_no, newest - self._page_count + 1), newest):
            if page_no not in heads:
                self._note(heads, self._read_head(page_no), (page_no - 1) % self._page_count)
        return [heads[page_no] for page_no in sorted(heads)]

    def _note(self, heads: dict[int, _Head], head: _Head | None, slot: int) -> None:
        """Enter a header that can be what it says: from the position's page to a later one every page holds at least
        one record, and at most so many as fit."""
        if head is None:
            return
        ahead = head.page_no - self._page_no
        begun = head.first_seq - (self.next_seq - self._index)
        # Where the page at the position really begins is not known: its header may have lied about it.
        slack = self._index if ahead else 0
        if (
            ahead >= 0
            and (head.page_no - 1) % self._page_count == slot
            and ahead <= begun <= ahead * self._most_records + slack
            and head.records <= self._most_records
            and PAGE_HEAD_BYTES <= head.end <= self._page_bytes
        ):
            heads[head.page_no] = head

    def _base(self, page_no: int) -> int:
        return self._offset + (page_no - 1) % self._page_count * self._page_bytes

    def _read_head(self, page_no: int) -> _Head | None:
        return self._read_slot((page_no - 1) % self._page_count)

    def _read_slot(self, slot: int) -> _Head | None:
        """The header of a slot, None where the file is too short."""
        raw = self._read(self._offset + slot * self._page_bytes, PAGE_HEAD_BYTES)
        if len(raw) < PAGE_HEAD_BYTES:
            return None
        page_no, first_seq, commit = PAGE_HEAD.unpack(raw)
        head = _Head(page_no, first_seq, commit >> 32, commit & 0xFFFFFFFF)
        # Sequences have 64 bits; what counts further is no header.
        return head if first_seq + head.records <= MASK else _NO_PAGE
