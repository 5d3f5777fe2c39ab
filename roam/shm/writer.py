"""The one writer of a segment: three lanes, one clock, one lock, and what to do when it is entered twice.

Ownership: one `SegmentWriter` per segment and process, claimed by process id. Threads: any; a re-entrant lock keeps
the critical section to reading the clock, copying bytes and storing words. A nested call in the same thread (a signal
handler, a `__del__` in a garbage collection) finds the section busy; its record is queued and written by the outer
call. Failure: no method raises anything of its own, and none waits for the host. A signal handler that raises inside
leaves a record wholly in or wholly out, and what was promised meanwhile is written by the same call or the next.

The last two rest on where CPython runs signal handlers: after a call, at a backward jump, and where a Python function
begins. What has to happen together stands together without one of these in between.
"""

from __future__ import annotations

import mmap
import time
from _thread import RLock
from collections.abc import Callable, Sequence
from zlib import crc32

from .layout import CAUSES, LANES, SUPPRESSED_SLOTS, Geometry, HostWord, StatusWord, announced_word, dropped_word
from .outcome import Outcome
from .overflow import DROP_OLDEST, LaneOverflow, Overflow
from .ownership import ownership
from .pending import Announcement, LockUnavailable, Nested
from .ring import RingWriter
from .words import words_of

__all__ = ["SegmentWriter"]

_SAMPLED = CAUSES.index("sampled")
_NEWEST = CAUSES.index("newest")
_TIMED_OUT = CAUSES.index("timed_out")
_OVERSIZE = CAUSES.index("oversize")
_NESTED = CAUSES.index("nested")
_FINALIZING = CAUSES.index("finalizing")
_PARKED = int(HostWord.PARKED)
_GENERATION = int(HostWord.GENERATION)
_SUPPRESSED = int(StatusWord.SUPPRESSED)
_HEARTBEAT = int(StatusWord.HEARTBEAT)
_ACKNOWLEDGED = int(StatusWord.ACKNOWLEDGED)
_REFUSED = int(StatusWord.REFUSED)

NESTED_LIMIT = 64
"""Records that nested calls may queue while one record is being written."""

LOCK_STEP_S = 0.25
"""How long to wait for the lock before looking whether this is a forked child, in which nobody has it."""

FINALIZING_WAIT_S = 0.1
"""How long to wait for the lock while the interpreter ends, when its holder may be a frozen daemon thread."""

_IDLE, _BUSY, _UNSETTLED = range(3)
"""Nobody is inside; somebody is; nobody is, but there is something for `_settle` to do."""


_WRITTEN, _STALE, _DROPPED, _FULL = Outcome.WRITTEN, Outcome.STALE, Outcome.DROPPED, Outcome.FULL


class SegmentWriter:
    """Writes records, counts drops, and rings the doorbell.

    `buffer` is the mapped segment. `encode_dropped` turns `{cause: count}` into a record body. `ring` wakes the host
    and must not block or raise. `clock` gives monotonic nanoseconds.
    """

    def __init__(
        self,
        buffer: memoryview,
        geometry: Geometry,
        *,
        encode_dropped: Callable[[dict[str, int]], bytes],
        ring: Callable[[], None],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._words = words = words_of(buffer)
        self._total_bytes = geometry.total_bytes
        self._encode_dropped = encode_dropped
        self._ring = ring
        self._clock = clock
        self._lock = RLock()
        self._patience_s: float | None = None
        self._state = _IDLE
        self._last_ns = 0
        self._rung = 0
        self._nested: list[Nested] = []
        # Lane by lane, by the index of the cause: all drops, and those that a `Dropped` record has told of.
        self._dropped = [[0] * len(CAUSES) for _ in LANES]
        self._announced = [[0] * len(CAUSES) for _ in LANES]
        self._suppressed = [0] * SUPPRESSED_SLOTS
        self._untold = [False] * len(LANES)
        self._announcements: list[Announcement | None] = [None] * len(LANES)
        # r[impl shm.writer.owner] Not a method: without a cycle the mapping goes when its last user goes.
        may_turn = self._is_owner = ownership()
        self.lanes = [
            RingWriter(
                buffer,
                words,
                offset=offset,
                page_bytes=geometry.config.page_bytes,
                page_count=pages,
                may_turn=may_turn,
            )
            for offset, pages in zip(geometry.lane_offsets, geometry.lane_pages, strict=True)
        ]
        self.overflow = LaneOverflow([DROP_OLDEST] * len(LANES), self.lanes, words)
        """What happens where a lane is full of records that the host has not taken. Replaced as a whole."""

    def plan_overflow(self, policies: Sequence[Overflow]) -> LaneOverflow:
        """What to store into `overflow` for these policies, lane by lane; the same if they are in force already."""
        if tuple(policies) == self.overflow.policies:
            return self.overflow
        return LaneOverflow(policies, self.lanes, self._words)

    def write(self, lane: int, payload: bytes, generation: int) -> int:
        """Commit one record body, judged while the generation word was `generation`. Returns an `Outcome`.

        After WRITTEN the record is in the segment; that of a nested call as soon as the outer call has returned.
        """
        if not self._is_owner():
            # Forked by C code, which runs no hook: not a byte, and no lock that another thread may have held.
            return _DROPPED
        crc = crc32(payload)
        words = self._words
        try:
            # Inside the block: a signal handler that raises directly after it must not leave the lock taken.
            if not self._lock.acquire(False):
                self._await_lock()
            if self._state:
                if self._state == _BUSY:
                    return self._defer(lane, payload, crc, generation)
                self._settle()
            self._state = _BUSY
            overflow = self.overflow
            try:
                # r[impl shm.config.judged] Compared where nothing can come between it and the commit.
                if words[_GENERATION] != generation:
                    outcome = _STALE
                elif self._untold[lane] and not self._announce(lane, overflow):
                    outcome = self._refuse(lane, payload, overflow)
                else:
                    now = self._clock()
                    if now <= self._last_ns:
                        now = self._last_ns + 1
                    self._last_ns = now
                    if overflow.appends[lane](payload, crc, now):
                        self._words[_HEARTBEAT] = now
                        outcome = _WRITTEN
                    else:
                        outcome = self._refuse(lane, payload, overflow)
            except BaseException:
                self._state = _UNSETTLED
                self._settle()
                raise
            if self._nested:
                # A nested call from here on settles first, so that nested records keep their order.
                self._state = _UNSETTLED
                self._settle()
            else:
                self._state = _IDLE
        except LockUnavailable:
            self._count_unlocked(lane)
            return _DROPPED
        finally:
            try:  # noqa: SIM105 – `suppress` is Python code, and could be interrupted before the release
                self._lock.release()
            except RuntimeError:
                pass  # not taken: waiting for it was given up, or interrupted
        # Read after the lock was released, which orders it behind the commit; pairs with the host's arming store.
        parked = words[_PARKED]
        # r[impl shm.doorbell.once]
        if parked != self._rung:
            self._ring_once(parked)
        return outcome

    def acknowledge(self, generation: int) -> None:
        """Say that every later record is judged by `generation`, if it is still the one in force."""
        if not self._is_owner():
            return
        try:
            if not self._lock.acquire(False):
                self._await_lock()
            if self._state == _IDLE:
                self._store_acknowledgement(generation)
            else:
                # Records that are being written, or wait to be, were judged before.
                self._nested.append(Nested(-1, b"", 0, generation))
                if self._state == _UNSETTLED:
                    self._settle()
        except LockUnavailable:
            return
        finally:
            try:  # noqa: SIM105 – as in `write`
                self._lock.release()
            except RuntimeError:
                pass

    def refuse(self, generation: int) -> None:
        """Say that the configuration `generation` was read and not understood."""
        if self._is_owner() and self._words[_REFUSED] < generation:
            self._words[_REFUSED] = generation

    def await_room(self, lane: int, deadline: float) -> bool:
        """Wait for the host after `Outcome.FULL`, without the lock. Returns False, with the record counted as timed out,
        where that is in vain; see `LaneOverflow.await_room`."""
        try:
            has_room = self.overflow.await_room(lane, deadline, lambda: self._ring_once(self._words[_PARKED]))
        except BaseException:
            # A signal handler raised: the record is given up.
            self.drop(lane, "timed_out")
            raise
        if not has_room:
            self.drop(lane, "timed_out")
        return has_room

    def _ring_once(self, parked: int) -> None:
        if parked == self._rung:
            return
        self._rung = parked
        self._ring()

    def drop(self, lane: int, cause: str) -> None:
        """Count a record that will not be written. The next record of the lane is preceded by the counts."""
        index = CAUSES.index(cause)
        if not self._is_owner():
            return
        try:
            if not self._lock.acquire(False):
                self._await_lock()
            self._count(lane, index)
        except LockUnavailable:
            self._count_unlocked(lane)
        finally:
            try:  # noqa: SIM105 – as in `write`
                self._lock.release()
            except RuntimeError:
                pass

    def suppress(self, lane: int, slot: int) -> None:
        """Count a record that sampling keeps out, by lane and by the slot of its key. It is told of elsewhere, and no
        `Dropped` record does."""
        if not self._is_owner():
            return
        words, suppressed = self._words, self._suppressed
        dropped, announced = self._dropped[lane], self._announced[lane]
        dropped_at, announced_at = dropped_word(lane, _SAMPLED), announced_word(lane, _SAMPLED)
        # No call from here on, and so no lock: no other thread, and no signal handler, comes between.
        dropped[_SAMPLED] += 1
        announced[_SAMPLED] += 1
        suppressed[slot] += 1
        words[dropped_at] = dropped[_SAMPLED]
        words[announced_at] = announced[_SAMPLED]
        words[_SUPPRESSED + slot] = suppressed[slot]

    def finalize(self) -> None:
        """From now on wait for the lock only so long: daemon threads may be frozen while they hold it."""
        self._patience_s = FINALIZING_WAIT_S

    def disown(self) -> None:
        """In a forked child: never write into the parent's stream, and never wait for a thread that is not here."""
        nobodys = memoryview(mmap.mmap(-1, self._total_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        self._words = words = words_of(nobodys)
        for ring in self.lanes:
            ring.retire(nobodys, words)
        self._lock = RLock()
        self._nested = []
        self._state = _IDLE
        self.overflow = LaneOverflow([DROP_OLDEST] * len(LANES), self.lanes, words)

    def _await_lock(self) -> None:
        """Wait for whoever has the lock. A signal handler may run meanwhile, and may fork: in the child nobody has it, so
        the wait is made in steps. Raises `LockUnavailable`."""
        lock = self._lock
        while not lock.acquire(True, LOCK_STEP_S if self._patience_s is None else self._patience_s):
            if self._patience_s is not None:
                # Whoever holds it is frozen for good, and the next call need not wait for it again.
                self._patience_s = 0.0
                raise LockUnavailable
            if lock is not self._lock or not self._is_owner():
                raise LockUnavailable

    def _tick(self) -> int:
        self._last_ns = now = max(self._clock(), self._last_ns + 1)
        return now

    def _refuse(self, lane: int, payload: bytes, overflow: LaneOverflow) -> int:
        """The lane did not take the record: it can never fit, or the host is behind, or this process may not write.
        `overflow` is what was in force when it was tried."""
        if len(payload) > self.lanes[lane].largest_bytes:
            self._count(lane, _OVERSIZE)
        elif self._is_owner():
            overflow.note_full(lane)
            if overflow.policies[lane].wait_s:
                return _FULL
            self._count(lane, _NEWEST)
        return _DROPPED

    def _store_acknowledgement(self, generation: int) -> None:
        if self._words[_GENERATION] == generation:
            self._words[_ACKNOWLEDGED] = generation

    def _announce(self, lane: int, overflow: LaneOverflow) -> bool:
        """Write a `Dropped` record, after one that an exception interrupted; False if there is no room for it, and so
        none for the record that it has to precede."""
        # r[impl shm.dropped.announced]
        if overflow.is_still_full(lane):
            return False
        if self._announcements[lane] is not None and not self._tell(lane, overflow):
            return False
        if not self._untold[lane]:
            return True
        totals = self._dropped[lane].copy()
        numbers = zip(CAUSES, totals, self._announced[lane], strict=True)
        body = self._encode_dropped({name: total - told for name, total, told in numbers if total > told})
        self._announcements[lane] = Announcement(self.lanes[lane].emitted, totals, body)
        return self._tell(lane, overflow)

    def _tell(self, lane: int, overflow: LaneOverflow) -> bool:
        """Whatever of the lane's announcement is still to be done; every step may be done twice. False if there is no
        room for it."""
        announcement = self._announcements[lane]
        assert announcement is not None
        seq, totals, body = announcement
        ring, announced = self.lanes[lane], self._announced[lane]
        if ring.emitted == seq:
            overflow.appends[lane](body, crc32(body), self._tick())
        if ring.emitted > seq:
            for cause, total in enumerate(totals):
                at = announced_word(lane, cause)
                # What sampling kept out meanwhile is beyond the total.
                announced[cause] = max(announced[cause], total)
                self._words[at] = announced[cause]
        self._announcements[lane] = None
        self._untold[lane] = self._dropped[lane] != announced
        return ring.emitted > seq or not overflow.policies[lane].spares

    def _defer(self, lane: int, payload: bytes, crc: int, generation: int) -> int:
        if len(self._nested) >= NESTED_LIMIT:
            self._count(lane, _NESTED)
            return _DROPPED
        nested = Nested(lane, payload, crc, generation)
        # Nothing comes between this and the append, so an acknowledgement cannot get in front of the record.
        if self._words[_GENERATION] != generation:
            return _STALE
        self._nested.append(nested)
        return _WRITTEN

    def _settle(self) -> None:
        """Write what nested calls queued, and what is queued meanwhile."""
        self._state = _BUSY
        try:
            # A loop would not be safe in here: CPython 3.12 and later leave its backward jump outside of the `try`.
            self._write_queue()
        except BaseException:
            self._state = _UNSETTLED
            raise
        self._state = _IDLE

    def _write_queue(self) -> None:
        nested = self._nested
        while nested:
            self._write_nested(nested[0])
            del nested[0]

    def _write_nested(self, nested: Nested) -> None:
        lane = nested.lane
        if lane < 0:
            self._store_acknowledgement(nested.generation)
            return
        ring, overflow = self.lanes[lane], self.overflow
        if nested.seq < 0:
            if self._untold[lane] and not self._announce(lane, overflow):
                self._refuse_nested(lane, nested.payload, overflow)
                return
            nested.seq = ring.emitted
        # Not equal: it was written, and the exception came before it could be taken out of the queue.
        if ring.emitted == nested.seq:
            now = self._tick()
            if overflow.appends[lane](nested.payload, nested.crc, now):
                self._words[_HEARTBEAT] = now
            else:
                self._refuse_nested(lane, nested.payload, overflow)

    def _refuse_nested(self, lane: int, payload: bytes, overflow: LaneOverflow) -> None:
        if self._refuse(lane, payload, overflow) == _FULL:
            # Inside of another call nobody can wait.
            self._count(lane, _TIMED_OUT)

    def _count_unlocked(self, lane: int) -> None:
        if self._is_owner():
            self._count(lane, _FINALIZING)

    def _count(self, lane: int, cause: int) -> None:
        at = dropped_word(lane, cause)
        counts = self._dropped[lane]
        # No call from here on: not even a call that could not get the lock loses a count.
        counts[cause] += 1
        self._words[at] = counts[cause]
        self._untold[lane] = True
