"""Lanes that are old: page and sequence numbers cross 2**32 and 2**63 as if nothing were there.

Numbers have 64 bits, and nothing cares for the smaller limits. At 2**64 a lane is full: sequence 2**64 - 2 is the last
that a reader delivers, a page that counts further is no page to it, and the writer raises for the record after that, as
it does for a page number of 2**64. Nothing is committed then; the oldest page may be gone, as with any new page. A cell
that writes a million records in a second gets there after 584,000 years.
"""

from __future__ import annotations

import bisect
import mmap
import os
import random
import signal
import struct
import time
from collections.abc import Iterator
from typing import Any, NoReturn

from roam.shm.layout import PAGE_HEAD
from roam.shm.reader import Chunk, Gap, RingReader
from roam.shm.ring import RingWriter
from tests.lanes import Lane, StoreLog, append, records_of

from .dead_lane import body_of
from .goal import Case, Tally, expect

__all__ = ["LIMITS", "boundary_cases", "check_the_end", "kill_at_every_store", "kill_writers"]

LIMITS = (2**32, 2**63)
END = 2**64
RECORDS = 40
PAGES = 4
PAGE_BYTES = 128
KILLS_OF_A_CASE = 10
LONGEST_S = 0.012
KILLED_PAGES = 4
KILLED_PAGE_BYTES = 1024


def boundary_cases(*, small: bool, seed: int) -> Iterator[Case]:
    """Every pair of limits for sequences and pages, several times, in each of the ways; then the end of all numbers."""
    for number in range(1 if small else 20):
        for way in ("stores", "kills", "host"):
            for sequences in LIMITS:
                for pages in LIMITS:
                    yield {"way": way, "sequences": sequences, "pages": pages, "seed": f"{seed}/{number}"}
    yield {"way": "end"}


def kill_at_every_store(case: Case, tally: Tally) -> None:
    """The writer's stores are logged once, and made up to each of them in turn, while a reader polls now and then."""
    source = random.Random(case["seed"])
    first_page_no, first_seq = case["pages"] - source.randint(2, 12), case["sequences"] - source.randint(3, 30)
    log, committed_at = _logged(first_page_no, first_seq)
    for kill_at in case.get("kills", range(len(log.stores) + 1)):
        lane = Lane(PAGE_BYTES, PAGES, first_page_no=first_page_no, first_seq=first_seq)
        chance = random.Random(f"{case['seed']}/{kill_at}")
        pace = chance.choice((3, 20, 150))
        found: list[Chunk | Gap] = []
        applied = 0
        while applied < kill_at:
            until = min(kill_at, applied + 1 + int(chance.expovariate(1 / pace)))
            log.apply(lane.buffer, applied, until)
            applied = until
            found += lane.reader.poll()
        emitted = first_seq + bisect.bisect_right(committed_at, kill_at)
        measured = lane.reader.measure()
        while items := lane.reader.poll(final=True):
            found += items
        area = bytes(lane.buffer[lane.offset :])
        next_seq = hold(found, area, PAGE_BYTES, first_seq, kills=[kill_at])
        expect(next_seq == emitted, f"{emitted} was committed, {next_seq} found", kills=[kill_at])
        expect(measured.emitted == emitted, f"{emitted} was committed, {measured} measured", kills=[kill_at])
        _cover(tally, lane.reader, found, first_seq, case)


def _logged(first_page_no: int, first_seq: int) -> tuple[StoreLog, list[int]]:
    """Every store of a writer, and after how many of them each record is committed."""
    log = StoreLog()
    lane = Lane(PAGE_BYTES, PAGES, first_page_no=first_page_no, first_seq=first_seq)
    writer = lane.new_writer(log.memory, log.words)
    committed_at = []
    for seq in range(first_seq, first_seq + RECORDS):
        assert append(writer, _short_body(seq), seq % 1000)
        committed_at.append(len(log.stores))
    return log, committed_at


def _short_body(seq: int) -> bytes:
    return body_of(seq)[:40]


def kill_writers(case: Case, tally: Tally) -> None:
    """Processes that write at full speed are killed at random moments around the boundary."""
    source = random.Random(case["seed"])
    for _ in range(KILLS_OF_A_CASE):
        first_page_no = case["pages"] - source.randrange(1, 250)
        first_seq = case["sequences"] - source.randrange(1, 1500)
        moment = source.uniform(0.001, LONGEST_S), source.choice((0.0, 0.0001, 0.001))
        _kill_one(case, first_page_no, first_seq, moment, tally)


def _kill_one(case: Case, first_page_no: int, first_seq: int, moment: tuple[float, float], tally: Tally) -> None:
    """One writer. `moment` is how long it lives, and how long the reader pauses between two polls, in seconds."""
    after_s, pause_s = moment
    fd = os.memfd_create("lane")
    side = mmap.mmap(-1, mmap.PAGESIZE)
    words = memoryview(side).cast("Q")
    words[0] = words[1] = first_seq
    shape: dict[str, Any] = {
        "offset": 0,
        "page_bytes": KILLED_PAGE_BYTES,
        "page_count": KILLED_PAGES,
        "first_page_no": first_page_no,
        "first_seq": first_seq,
    }
    try:
        os.truncate(fd, KILLED_PAGES * KILLED_PAGE_BYTES)
        reader = RingReader(lambda offset, size: os.pread(fd, size, offset), lane=2, **shape)
        found: list[Chunk | Gap] = []
        pid = os.fork()
        if pid == 0:
            _write_until_killed(fd, words, shape)
        try:
            deadline = time.monotonic() + after_s
            while time.monotonic() < deadline:
                found += reader.poll()
                time.sleep(pause_s)
        finally:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        expect(os.WIFSIGNALED(status), f"the writer ended by itself, with {status}")
        while items := reader.poll(final=True):
            found += items
        next_seq = hold(found, os.pread(fd, KILLED_PAGES * KILLED_PAGE_BYTES, 0), KILLED_PAGE_BYTES, first_seq)
        expect(words[1] <= next_seq <= words[0], f"{words[1]} acknowledged, {next_seq} found, {words[0]} begun")
        _cover(tally, reader, found, first_seq, case)
    finally:
        os.close(fd)


def _write_until_killed(fd: int, words: memoryview, shape: dict[str, Any]) -> NoReturn:
    try:
        memory = memoryview(mmap.mmap(fd, KILLED_PAGES * KILLED_PAGE_BYTES))
        writer = RingWriter(memory, memory.cast("Q"), **shape)
        seq = writer.emitted
        while True:
            words[0] = seq + 1
            append(writer, _short_body(seq), seq % 1000)
            seq += 1
            words[1] = seq
    finally:
        os._exit(1)


def hold(found: list[Chunk | Gap], area: bytes, page_bytes: int, first_seq: int, **evidence: Any) -> int:
    """Hold what was found against what was written and what the dead lane has. Returns the sequence after the last."""
    residents = set()
    for at in range(0, len(area), page_bytes):
        page_no, page_first_seq, commit = PAGE_HEAD.unpack_from(area, at)
        if page_no:
            residents.update(range(page_first_seq, page_first_seq + (commit >> 32)))
    oldest = min(residents, default=first_seq)
    next_seq = first_seq
    delivered = set()
    for item in found:
        expect(item.first_seq == next_seq, f"{item.first_seq} where {next_seq} was due", **evidence)
        next_seq += item.count
        if isinstance(item, Gap):
            is_gone = item.cause == "overwritten" and next_seq <= oldest
            expect(is_gone, f"{item} in a sound lane, of which {oldest} is the oldest", **evidence)
            continue
        for seq, time_ns, payload in item:
            is_whole = payload == _short_body(seq) and time_ns == seq % 1000
            expect(is_whole, f"record {seq} is torn: {payload!r}", **evidence)
            delivered.add(seq)
    missing = sorted(residents - delivered)
    expect(not missing, f"in the dead lane, and not delivered: {missing[:10]}", **evidence)
    return next_seq


def _cover(tally: Tally, reader: RingReader, found: list[Chunk | Gap], first_seq: int, case: Case) -> None:
    """Note what this kill went through."""
    expect(reader.next_seq - first_seq == reader.delivered + reader.lost, "what was found is not what was counted")
    counts = tally.counts
    counts["kills near a boundary"] += 1
    counts["sequence boundaries crossed"] += first_seq < case["sequences"] < reader.next_seq
    counts["page boundaries crossed"] += any(isinstance(item, Chunk) and item.page_no > case["pages"] for item in found)
    counts["laps near a boundary"] += bool(reader.lost)


def check_the_end() -> None:
    """What this module says of 2**64 is so."""
    lane = Lane(PAGE_BYTES, PAGES, first_seq=END - 4)
    found = []
    for seq in range(END - 4, END):
        expect(lane.append(_short_body(seq)), f"record {seq} was refused")
        found += [seq for seq, _, _ in records_of(lane.reader.poll())]
    expect(found == [END - 4, END - 3, END - 2], f"{found} were delivered")
    _expect_refusal(lane)

    lane = Lane(PAGE_BYTES, PAGES, first_page_no=END - 1)
    while lane.writer.emitted < 2:
        lane.fill(1)
    _expect_refusal(lane)
    found = [seq for seq, _, _ in records_of(lane.reader.poll(final=True))]
    expect(found == [0, 1], f"{found} were delivered of the last page")


def _expect_refusal(lane: Lane) -> None:
    """The next record, too long for what is left of a page, raises; a reader finds nothing new, and all but the oldest
    page."""
    emitted, before = lane.writer.emitted, records_of(lane.new_reader().poll(final=True))
    for _ in range(2):
        try:
            lane.append(bytes(60))
        except (ValueError, struct.error):
            continue
        expect(False, f"a record was written after {emitted}")
    expect(lane.writer.emitted == emitted, f"{lane.writer.emitted} instead of {emitted} are committed")
    after = records_of(lane.new_reader().poll(final=True))
    is_kept = len(after) >= len(before) - 2 and after == before[len(before) - len(after) :]
    expect(is_kept, f"a refused record changed {before} to {after}")
