"""The shipped writer and reader under interleavings that no scheduler would show in a year.

The writer never loads from the segment, so the order of its stores does not depend on the reader: they are logged once
and replayed from inside the reader's own loads, which are made 8 bytes at a time. A kill is a prefix of the log. The
same check runs on writers and readers with a seeded bug, each of which it has to find.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from zlib import crc32

import pytest

import roam.shm.chunk
import roam.shm.reader
import roam.shm.ring
from roam.shm.layout import PAGE_HEAD_BYTES, RECORD_HEAD, RECORD_HEAD_BYTES, SEAL
from roam.shm.reader import Gap, RingReader
from roam.shm.ring import RingWriter
from tests.lanes import Lane, StoreLog, append, records_of


@dataclass(frozen=True)
class Log:
    """What a writer stored into a lane of this geometry, and after how many stores each record was there and was gone."""

    page_bytes: int
    page_count: int
    records: tuple[tuple[int, int, bytes], ...]
    stores: tuple[tuple[int, bytes], ...]
    committed_after: tuple[int, ...]
    overwritten_after: tuple[int, ...]
    page_nos: tuple[int, ...]

    def committed(self, stores: int) -> int:
        """How many records are committed after so many stores."""
        return sum(after <= stores for after in self.committed_after)


def write_log(page_bytes: int, page_count: int, count: int, kind: type[RingWriter] = RingWriter) -> Log:
    """Let a writer commit `count` records of 1 to 12 bytes, every one different."""
    lane = Lane(page_bytes, page_count, offset=0)
    log = StoreLog()
    writer = lane.new_writer(log.memory, log.words, kind)
    records, committed_after, page_nos, turned_after = [], [], [], {}
    for seq in range(count):
        payload = bytes([seq + 1]) * (1 + seq * 5 % 12)
        before = len(log.stores)
        assert append(writer, payload, 1000 + seq)
        page_no = writer._state[0]
        if page_no not in turned_after:
            turned_after[page_no] = before + 1
        page_nos.append(page_no)
        records.append((seq, 1000 + seq, payload))
        committed_after.append(len(log.stores))
    never = len(log.stores) + 1
    overwritten_after = tuple(turned_after.get(page_no + page_count, never) for page_no in page_nos)
    return Log(
        page_bytes,
        page_count,
        tuple(records),
        tuple(log.stores),
        tuple(committed_after),
        overwritten_after,
        tuple(page_nos),
    )


class Replay(Lane):
    """A lane into which the logged stores fall while a reader looks at it."""

    def __init__(self, log: Log, kill_at: int, source: random.Random, coverage: Counter[str], kind=RingReader) -> None:
        super().__init__(log.page_bytes, log.page_count, offset=0)
        self.log = log
        self.kill_at = kill_at
        self.done = 0
        self.source = source
        self.speed = source.choice((0.02, 0.1, 0.3, 0.8))
        self.burst = source.choice((1, 3, 10, 40))
        self.coverage = coverage
        self.is_stepping = True
        self.polls = source.choice((0, 2, 5, 12))
        self.reader = self.new_reader(kind)

    def advance(self, count: int) -> list[int]:
        """Make the next stores, up to the kill; returns where they went."""
        stop = min(self.done + count, self.kill_at)
        places = []
        for offset, data in self.log.stores[self.done : stop]:
            self.buffer[offset : offset + len(data)] = data
            places.append(offset)
        self.done = stop
        return places

    def read(self, offset: int, size: int) -> bytes:
        """Copy 8 bytes at a time; before each piece the writer may get on."""
        if not self.is_stepping:
            return bytes(self.buffer[offset : offset + size])
        pieces = []
        for at in range(offset, offset + size, 8):
            if self.done < self.kill_at and self.source.random() < self.speed:
                places = self.advance(self.source.randrange(1, self.burst + 1))
                if at > offset:
                    page = offset // self.page_bytes
                    self.coverage["stores within a copy"] += any(place // self.page_bytes == page for place in places)
            pieces.append(bytes(self.buffer[at : min(at + 8, offset + size)]))
        return b"".join(pieces)

    def run(self) -> None:
        """Poll while the writer writes, then after its death, and check all that was promised."""
        found = []
        for _ in range(self.polls):
            found += self.reader.poll()
            self.is_stepping = False
            measured = self.reader.measure()
            self.is_stepping = True
            assert self.log.committed(self.done) == measured.emitted
            delivered_or_lost = self.reader.delivered + self.reader.lost
            assert measured.emitted == delivered_or_lost + measured.resident + measured.overwritten
        self.advance(len(self.log.stores))
        self.is_stepping = False
        while items := self.reader.poll(final=True):
            found += items
        self.check(found)

    def check(self, found) -> None:
        """Order, contents, completeness, and headers that tell the truth."""
        got = records_of(found)
        seqs = [seq for seq, _, _ in got]
        lost = [seq for gap in found if isinstance(gap, Gap) for seq in range(gap.first_seq, gap.first_seq + gap.count)]
        assert all(record == self.log.records[record[0]] for record in got)
        assert sorted(seqs) == seqs
        assert list(range(self.log.committed(self.kill_at))) == sorted(seqs + lost)
        assert all(self.log.overwritten_after[seq] <= self.kill_at for seq in lost)
        assert (len(seqs) + len(lost), 0, 0) == self.reader.measure()
        committed = self.log.page_nos[: self.log.committed(self.kill_at)]
        for page_no, first_seq, count, _ in map(self.page, range(self.page_count)):
            if page_no:
                assert committed.count(page_no) == count
                assert first_seq == sum(other < page_no for other in committed)
        self.coverage["laps"] += bool(lost)
        self.coverage["records delivered"] += len(seqs)
        self.coverage["page turns"] += self.reader._page_no - 1


@pytest.fixture(autouse=True)
def impatience(monkeypatch):
    """What takes a reader many polls in life is part of every run here."""
    monkeypatch.setattr(roam.shm.reader, "RETRIES", 2)


GEOMETRIES = ((64, 2, 11), (64, 3, 13), (96, 2, 14), (128, 4, 14))


@cache
def logs(kind: type[RingWriter]) -> tuple[Log, ...]:
    """One log for each geometry."""
    return tuple(write_log(*geometry, kind) for geometry in GEOMETRIES)


def schedules(runs: int, coverage: Counter[str], writer=RingWriter, reader=RingReader) -> Iterator[Replay]:
    """`runs` replays over all logs: kills at every store in turn, and random interleavings before them."""
    for number in range(runs):
        of_kind = logs(writer)
        log = of_kind[number % len(of_kind)]
        kill_at = number // len(of_kind) % (len(log.stores) + 1)
        yield Replay(log, kill_at, random.Random(number), coverage, reader)


# r[verify shm.record.commit]
# r[verify shm.page.turn]
# r[verify shm.page.copy]
# r[verify shm.reader.resume]
def test_no_interleaving_and_no_kill_loses_or_tears_a_record():
    """Order, contents and accounting hold for thousands of interleavings, with a kill at every store; the runs did
    see laps, page turns and copies that the writer broke into."""
    coverage: Counter[str] = Counter()
    for replay in schedules(12_000, coverage):
        replay.run()

    assert coverage["laps"] > 100
    assert coverage["page turns"] > 1000
    assert coverage["stores within a copy"] > 1000
    assert coverage["records delivered"] > 10_000


# r[verify shm.record.commit]
def test_a_dead_writer_leaves_what_it_committed():
    """After a kill at any single store everything that was committed and not overwritten is read by one drain."""
    for log in logs(RingWriter):
        for kill_at in range(len(log.stores) + 1):
            replay = Replay(log, kill_at, random.Random(0), Counter())
            replay.advance(kill_at)
            replay.is_stepping = False
            found = replay.reader.poll(final=True)
            assert [] == replay.reader.poll(final=True)
            replay.check(found)
            expected = [
                record for record in log.records[: log.committed(kill_at)] if log.overwritten_after[record[0]] > kill_at
            ]
            assert expected == records_of(found)


class CommitBeforeData(RingWriter):
    """Publishes a record before its bytes are there."""

    __slots__ = ()

    def append(self, payload, payload_crc, time_ns, taken=None):
        memory, held = self._memory, []
        self._memory = HeldBack(held)
        done = super().append(payload, payload_crc, time_ns, taken)
        self._memory = memory
        for place, data in held:
            memory[place] = data
        return done


class HeldBack:
    """Takes stores, and makes them later."""

    def __init__(self, held):
        self.held = held

    def __setitem__(self, place, data):
        self.held.append((place, data))


class FilteredWords:
    """Leaves out, or changes the order of, the words of a page header that are stored in one turn."""

    def __init__(self, words, page_bytes, edit):
        self.words = words
        self.page_words = page_bytes // 8
        self.edit = edit
        self.turn = []

    def __setitem__(self, index, value):
        field_index = index % self.page_words
        if self.turn or (field_index == 0 and value == 0):
            self.turn.append((index, value))
            if field_index == 0 and value:
                for one in self.edit(self.turn):
                    self.words[one[0]] = one[1]
                self.turn = []
        else:
            self.words[index] = value


def turning_writer(name, edit):
    """A writer whose page turns are edited: `[invalid, commit, first_seq, page_no]` in, what is stored out."""

    def initialise(self, memory, words, **options):
        RingWriter.__init__(self, memory, FilteredWords(words, options["page_bytes"], edit), **options)

    return type(name, (RingWriter,), {"__slots__": (), "__init__": initialise})


NoInvalidation = turning_writer("NoInvalidation", lambda turn: turn[1:])
NumberFirst = turning_writer("NumberFirst", lambda turn: [turn[0], turn[3], turn[1], turn[2]])
CommitKept = turning_writer("CommitKept", lambda turn: [turn[0], turn[2], turn[3]])


class ClearedFirst(RingWriter):
    """Stores a commit word as `struct.pack_into` does: zeros first."""

    __slots__ = ()

    def __init__(self, memory, words, **options):
        super().__init__(memory, ClearedWords(words), **options)


class ClearedWords:
    """Stores 0 before each value."""

    def __init__(self, words):
        self.words = words

    def __setitem__(self, index, value):
        self.words[index] = 0
        self.words[index] = value


class NoSecondLook(RingReader):
    """Does not look at the page number again after a copy."""

    def _step(self, found, final):
        head = self._read_head(self._page_no)
        if head is None or head.page_no != self._page_no:
            return self._on_absence(head, found, final)
        if not self._is_sound(head):
            return self._give_up(head, found, final)
        if head.records > self._index:
            data = self._read(self._base(self._page_no) + self._position, head.end - self._position)
            if not self._take(data, head, found, final):
                return False
        return self._advance(found, final)


class JumpToLatest(RingReader):
    """Goes on at the newest page when it was overtaken."""

    def _survey(self):
        return super()._survey()[-1:]


class OffByOne(RingReader):
    """Counts one too few."""

    def _skip_to(self, seq, cause, found):
        super()._skip_to(seq - 1, cause, found)


class NumberIsEnough(RingReader):
    """Goes to the next page because of its number, wherever that begins."""

    def _advance(self, found, final):
        following = self._read_head(self._page_no + 1)
        if following is None or following.page_no != self._page_no + 1:
            return self._on_absence(following, found, final)
        self.next_seq = following.first_seq
        self._enter(following)
        return True


def first_failure(runs: int, writer=RingWriter, reader=RingReader) -> int | None:
    """The number of the first schedule that breaks a promise, or None."""
    for number, replay in enumerate(schedules(runs, Counter(), writer, reader)):
        try:
            replay.run()
        except (AssertionError, IndexError):
            return number
    return None


# r[verify shm.record.commit]
# r[verify shm.page.turn]
@pytest.mark.parametrize("writer", [CommitBeforeData, NoInvalidation, NumberFirst, CommitKept, ClearedFirst])
def test_the_check_finds_seeded_bugs_of_the_writer(writer):
    """A writer that stores in another order, or not all of it, is found out."""
    assert first_failure(6000, writer=writer) is not None


# r[verify shm.reader.resume]
@pytest.mark.parametrize("reader", [JumpToLatest, OffByOne, NumberIsEnough])
def test_the_check_finds_seeded_bugs_of_the_reader(reader):
    """A reader that gives up records that are there, or counts them wrongly, is found out."""
    assert first_failure(6000, reader=reader) is not None


# r[verify shm.page.copy]
def test_the_check_finds_what_the_checksum_hides(monkeypatch):
    """Without the second look at the page number and without sequence and page in the checksum, torn records show;
    either of the two alone is enough to prevent that."""
    assert first_failure(3000, reader=NoSecondLook) is None

    for module in (roam.shm.ring, roam.shm.chunk):
        monkeypatch.setattr(module, "_pack_seal", lambda *_: b"")
    logs.cache_clear()
    try:
        assert first_failure(6000, reader=NoSecondLook) is not None
    finally:
        logs.cache_clear()


def test_the_log_is_what_a_buffer_would_hold():
    """Replaying all stores gives the same bytes as a writer over a buffer: the log leaves nothing out."""
    for log in logs(RingWriter):
        lane = Lane(log.page_bytes, log.page_count, offset=0)
        for _, time_ns, payload in log.records:
            lane.append(payload, time_ns)
        replay = Replay(log, len(log.stores), random.Random(0), Counter())
        replay.advance(len(log.stores))

        assert lane.buffer == replay.buffer
    seq, time_ns, payload = logs(RingWriter)[0].records[-1]
    head = RECORD_HEAD.pack(
        len(payload), crc32(SEAL.pack(time_ns, len(payload), seq, seq + 1), crc32(payload)), time_ns
    )
    assert len(head) == RECORD_HEAD_BYTES < PAGE_HEAD_BYTES
