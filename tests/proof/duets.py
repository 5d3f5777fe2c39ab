"""Schedules of two sides that both load and store: doorbell, configuration, stream credit, claim."""

from __future__ import annotations

import os
import types
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock
from zlib import crc32

from roam.errors import SegmentTaken
from roam.shm.layout import BULK, LANES, Geometry, HostWord, SegmentConfig, StatusWord
from roam.shm.outcome import Outcome

from .altered import Code
from .duet import Duet, FencedLock, Shared, Side
from .goal import expect
from .weave import Weave, source_of

__all__ = ["ClaimWeave", "CreditWeave", "DoorbellWeave", "JudgedWeave", "SparedWeave"]

CONFIG = SegmentConfig(page_bytes=256, life_pages=2, vital_pages=2, bulk_pages=4, record_bytes=64, span_slots=1)
GEOMETRY = Geometry(CONFIG)
LONG_TURN = 45
MOST_NESTED = 5


class DuetWeave(Weave):
    """Of four numbers two have one turn of each side, of every length up to 45, and two have turns that chance makes,
    many with a kill of either side. Odd numbers are those with `Side.is_buffered`, where a weave asks for it."""

    steps = (40, 40)
    """About how many steps the sides have."""

    @property
    def total(self) -> int | None:
        return None

    def duet(self, number: int, seed: int) -> Duet:
        """The schedule with this number."""
        if number % 4 < 2 and number // 4 < LONG_TURN**2:
            # In an order in which also the first few are of all lengths.
            return Duet(divmod(number // 4 * 1013 % LONG_TURN**2, LONG_TURN))
        source = source_of(seed, number)
        longest = source.choice((3, 10, 30))
        turns = [source.randrange(longest) for _ in range(source.randrange(1, 9))]
        if source.random() < 0.3:
            side = source.randrange(2)
            return Duet(turns, (side, source.randrange(self.steps[side])))
        return Duet(turns)

    def drain(self, shared: Shared) -> list[bytes]:
        """The bodies of all records of the bulk lane."""
        found = []
        reader = self.lane_reader(lambda offset, size: bytes(shared.buffer[offset : offset + size]))
        while items := reader.poll(final=True):
            expect(not any(isinstance(item, self.code.reader.Gap) for item in items), f"lost: {items}")
            found += [payload for item in items for _, _, payload in item]
        return found

    def lane_reader(self, read: Any) -> Any:
        """The reader of the bulk lane."""
        return self.code.reader.RingReader(
            read, lane=BULK, offset=GEOMETRY.lane_offsets[BULK], page_bytes=CONFIG.page_bytes, page_count=4
        )

    def segment_writer(self, side: Side, **options: Any) -> Any:
        """The writer of a segment, whose lock orders its stores as the processor's instruction does."""
        writer = self.code.writer.SegmentWriter(side, GEOMETRY, encode_dropped=lambda _: b"", **options)
        writer._lock = FencedLock(writer._lock, side)
        return writer


# r[verify shm.doorbell.once]
class DoorbellWeave(DuetWeave):
    """A cell that writes, and a host that parks, looks once more, and sleeps until the bell rings.

    When the cell is done, the host has delivered every record, or the bell has rung since it fell asleep: no wake-up
    is lost. The cell rings at most once for a park, and after a commit. In every other schedule the cell's stores
    become visible as late as x86 allows: when its lock is released.
    """

    name = "doorbell"
    steps = (40, 60)
    records = 4

    def run(self, number: int, seed: int, counts: Counter[str]) -> int:
        duet = self.duet(number, seed)
        shared = Shared(GEOMETRY.total_bytes, duet)
        cell, host = Side(shared, is_buffered=bool(number & 1)), Side(shared)
        rung_for: list[int] = []
        bell = [False]

        def ring() -> None:
            duet.step()
            rung_for.append(writer._rung)
            bell[0] = True

        writer = self.segment_writer(cell, ring=ring)
        reader = self.lane_reader(host.read)

        def write() -> None:
            try:
                for record in range(self.records):
                    writer.write(BULK, bytes([record]), 0)
            finally:
                cell.flush()

        def collect() -> None:
            parks = 0
            while True:
                parks += 1
                host.words[HostWord.PARKED] = parks
                if reader.poll():
                    continue
                counts["parks"] += 1
                while not bell[0] and not duet.has_ended[0]:
                    duet.give_way()
                if not bell[0]:
                    return
                # Taken before the look that follows.
                bell[0] = False

        duet.run(write, collect)
        expect(len(rung_for) == len(set(rung_for)), f"rung for the parks {rung_for}")
        if not any(duet.was_killed):
            expect(reader.next_seq == self.records, f"asleep for ever, {reader.next_seq} of {self.records} delivered")
        counts["rings"] += len(rung_for)
        counts["kills between commit and ring"] += (
            duet.was_killed[0] and len(self.drain(shared)) > 0 and len(rung_for) == 0
        )
        return 1


# r[verify shm.config.judged]
class JudgedWeave(DuetWeave):
    """A cell that takes the configuration in force, judges and writes, and is interrupted by records that do the same,
    before its writing and within; and a host that posts configurations. What is committed after one was acknowledged
    was not judged by an older configuration."""

    name = "judged"
    steps = (60, 20)

    def run(self, number: int, seed: int, counts: Counter[str]) -> int:
        duet = self.duet(number, seed)
        shared = Shared(GEOMETRY.total_bytes, duet)
        cell, host = Side(shared, is_buffered=bool(number & 1)), Side(shared)
        interruptions = source_of(seed, number)
        left = [MOST_NESTED]
        now = [0]

        def interrupt() -> None:
            if left[0] and interruptions.random() < 0.4:
                left[0] -= 1
                emit()

        def clock() -> int:
            interrupt()
            now[0] += 1
            return now[0]

        def emit() -> None:
            outcome = Outcome.STALE
            while outcome == Outcome.STALE:
                judged_by: int = cell.words[HostWord.GENERATION]
                writer.acknowledge(judged_by)
                interrupt()
                outcome = writer.write(BULK, bytes([judged_by]), judged_by)
                counts["records judged again"] += outcome == Outcome.STALE

        writer = self.segment_writer(cell, ring=lambda: None, clock=clock)

        def write() -> None:
            try:
                for _ in range(3):
                    emit()
            finally:
                cell.flush()

        def post() -> None:
            for generation in (1, 2, 3):
                host.words[HostWord.GENERATION] = generation
                counts["acknowledgements seen"] += host.words[StatusWord.ACKNOWLEDGED] == generation

        duet.run(write, post)
        judged = [payload[0] for payload in self.drain(shared)]
        for acknowledged, count in _acknowledgements(cell.stored):
            later = judged[count:]
            expect(not later or min(later) >= acknowledged, f"{acknowledged} acknowledged, then {later} committed")
        return 1


def _acknowledgements(stores: list[tuple[int, bytes]]) -> Iterator[tuple[int, int]]:
    """Each generation that was acknowledged, and how many records of the bulk lane had been committed before it."""
    committed = 0
    for offset, data in stores:
        if offset == StatusWord.ACKNOWLEDGED * 8:
            yield int.from_bytes(data, "little"), committed
        lane_offset = offset - GEOMETRY.lane_offsets[BULK]
        # The upper half of a commit word is a count; a page that begins has none.
        committed += lane_offset > 0 and lane_offset % CONFIG.page_bytes == 16 and any(data[4:])


# r[verify shm.stream.credit]
class CreditWeave(DuetWeave):
    """Both ends of a stream over a ring of two pages of three items; either may be killed.

    Every item that was sent arrives, once and in order; nothing that the receiver has not copied is overwritten. The
    receiver's word carries into its second byte on the way, and one look at it may see it half stored, but not two
    that follow each other.
    """

    name = "credit"
    counted = "items received"
    steps = (120, 120)
    first_seq = 254
    page_bytes = 96

    def run(self, number: int, seed: int, counts: Counter[str]) -> int:
        duet = self.duet(number, seed)
        shared = Shared(GEOMETRY.total_bytes, duet)
        ends = Side(shared), Side(shared)
        tx, rx = self._tx(ends[0]), self._rx(ends[1], duet if number & 2 else None)
        sent: list[int] = []
        received: list[int] = []

        def send() -> None:
            for item in range(14):
                if tx.send(item):
                    sent.append(item)
                else:
                    counts["items refused"] += 1

        def receive() -> None:
            received.extend(item for item in (rx.get(0) for _ in range(12)) if item is not None)

        shared.words[HostWord.TAKEN + BULK] = self.first_seq
        duet.run(send, receive)
        expect(rx.lost == 0, f"{rx.lost} items lost")
        taken = shared.words[HostWord.TAKEN + BULK]
        late = self._reader(lambda offset, size: bytes(shared.buffer[offset : offset + size]))
        for item in late.poll(final=True):
            is_lost = isinstance(item, self.code.reader.Gap) and item.first_seq + item.count > taken
            expect(not is_lost, f"{item}, and below {taken} all is taken")
        if not duet.was_killed[1]:
            while (item := rx.get(0)) is not None:
                received.append(item)
            expect(rx.lost == 0, f"{rx.lost} items lost")
            # The last one may have been committed by a sender that did not live to hear of it.
            expect(received[: len(sent)] == sent, f"sent {sent}, received {received}")
            expect(len(received) <= len(sent) + duet.was_killed[0], f"sent {sent}, received {received}")
        counts[self.counted] += len(received)
        return 1

    def _reader(self, read: Any) -> Any:
        return self.code.reader.RingReader(
            read, lane=BULK, offset=4096, page_bytes=self.page_bytes, page_count=2, first_seq=self.first_seq
        )

    def _tx(self, side: Side) -> Any:
        tx = self.code.stream.RingTx("", b"", lambda item: bytes([item]))
        tx._segment = types.SimpleNamespace(words=side.words, config=CONFIG)
        tx._ring = self.code.ring.RingWriter(
            side, side.words, offset=4096, page_bytes=self.page_bytes, page_count=2, first_seq=self.first_seq
        )
        tx._pid = os.getpid()
        return tx

    def _rx(self, side: Side, eager: Duet | None) -> Any:
        """The receiver; with `eager`, its turns end before it gives credit, and half way through that."""

        def store_word(index: int, value: int) -> None:
            side.store_torn(index, value, eager)

        rx = self.code.stream.RingRx("", b"", lambda payload: payload[0])
        rx._file = types.SimpleNamespace(word=side.load_word, store_word=store_word)
        rx._reader = self._reader(side.read)
        # Whether the sending process lives is asked elsewhere.
        rx._sender_checked = float("inf")
        return rx


class _SparingLane:
    """A lane that drops what is newest, as a sender of numbers."""

    def __init__(self, code: Code, ring: Any, words: Any) -> None:
        policies = [code.overflow.DROP_NEWEST] * len(LANES)
        self._append = code.overflow.LaneOverflow(policies, [ring] * len(LANES), words).appends[BULK]

    def send(self, item: int) -> bool:
        """Write it; False if there is no room."""
        payload = bytes([item])
        return bool(self._append(payload, crc32(payload), 0))


# r[verify shm.overflow.spared]
class SparedWeave(CreditWeave):
    """As `CreditWeave`, where the sender is a cell whose lane overwrites nothing that its host has not taken."""

    name = "spared"
    counted = "records spared"

    def _tx(self, side: Side) -> Any:
        ring = self.code.ring.RingWriter(
            side, side.words, offset=4096, page_bytes=self.page_bytes, page_count=2, first_seq=self.first_seq
        )
        return _SparingLane(self.code, ring, side.words)


class _Locks:
    """`fcntl.lockf` of two processes on one file: never waited for, and given back by a death."""

    LOCK_EX, LOCK_NB, LOCK_UN = 2, 4, 8

    def __init__(self, duet: Duet) -> None:
        self._duet = duet
        self._owner: int | None = None

    def lockf(self, _fd: int, operation: int, *_: int) -> None:
        self._duet.step()
        side = self._duet.side
        if self._owner is not None and self._duet.was_killed[self._owner]:
            self._owner = None
        if operation == self.LOCK_UN:
            self._owner = None if self._owner == side else self._owner
        elif self._owner not in (None, side):
            raise BlockingIOError
        else:
            self._owner = side


# r[verify shm.segment.claim]
class ClaimWeave(DuetWeave):
    """Two processes that attach at once, of which either may be killed: at most one succeeds, whose pid it is that
    stands in the segment, and of two that live one does."""

    name = "claim"
    steps = (6, 6)

    def duet(self, number: int, seed: int) -> Duet:
        # In an order in which also the first few are of all kinds.
        number = number * 10_007 % self.total
        kill = number // 7**4
        return Duet([number // 7**place % 7 for place in range(4)], divmod(kill, 6) if kill < 12 else None)

    @property
    def total(self) -> int:
        return 7**4 * 13

    def run(self, number: int, seed: int, counts: Counter[str]) -> int:
        duet = self.duet(number, seed)
        shared = Shared(1024, duet)
        locks = _Locks(duet)
        claimed: list[int] = []
        mapping = self.code.mapping

        def claim() -> None:
            side = duet.side
            mapped = mapping.MappedSegment.__new__(mapping.MappedSegment)
            mapped.words = Side(shared).words
            try:
                mapped._claim(-1, "segment")
            except SegmentTaken:
                counts["claims refused"] += 1
            else:
                claimed.append(side)

        with mock.patch.multiple(mapping, fcntl=locks, os=types.SimpleNamespace(getpid=lambda: 100 + duet.side)):
            duet.run(claim, claim)
        pid = shared.words[StatusWord.PID]
        expect(len(claimed) <= 1, f"claimed by {claimed}")
        expect(all(pid == 100 + side for side in claimed), f"claimed by {claimed}, and {pid} stands there")
        # One that is refused while the other holds the lock leaves it to that one, which may then be killed.
        expect(claimed or any(duet.was_killed), "refused to both")
        counts["claims of dead processes"] += not claimed and pid != 0
        return 1
