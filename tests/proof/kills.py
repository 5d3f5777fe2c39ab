"""SIGKILL at any moment: a writer at full speed dies, and what it had committed is all there, or counted.

The writer notes in two words of its own, outside of the segment, which record it has begun and which call has
returned. What the reader delivers and counts as lost has to lie between the two; what the dead pages hold has to have
been delivered; what was lost has to have been overwritten. A failed run keeps what its reader saw, on a tape.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import time
from collections.abc import Iterator
from typing import NoReturn

from roam.clock import ClockAnchor
from roam.shm.header import Identity
from roam.shm.layout import BULK, PAGE_HEAD, PAGE_HEAD_BYTES, Geometry, SegmentConfig
from roam.shm.mapping import MappedSegment
from roam.shm.reader import Chunk, Gap, RingReader
from roam.shm.segment import SegmentFile
from roam.shm.writer import SegmentWriter

from .goal import Broken, Case, Goal, Tally, expect
from .tape import Tape, TapeEnded, pack, unpack

__all__ = ["RandomKills"]

PAGE_COUNTS = (4, 16, 64)
PAGE_BYTES = 1024
LONGEST_S = 0.012
KILLS_OF_A_CASE = 10
"""One segment's worth of kills is a case; a shard takes a case at a time."""

IDENTITY = Identity(
    peer_id=1,
    epoch=1,
    name="writer",
    nonce=bytes(16),
    host_pid=os.getpid(),
    host_start_ticks=0,
    boot_id=bytes(16),
    anchor=ClockAnchor(0, 0),
    roam_version="",
    python_version="",
)

_FILLING = bytes(range(256))


def body_of(seq: int) -> bytes:
    """The record with this sequence: of 8 to 207 bytes, different for each."""
    return seq.to_bytes(8, "little") + _FILLING[: seq * 37 % 200]


class RandomKills(Goal):
    """Kills at random moments."""

    name = "random-kills"
    unit = "kills"
    promise = "0 committed records lost, 0 torn, 0 duplicated; acked <= delivered + lost <= started every time"
    covers = (
        "laps",
        "page turns",
        "copies overtaken by the writer",
        "kills before a commit",
        "kills between commit and return",
        "kills at a page turn",
    )
    is_exact = False

    def cases(self, *, small: bool, seed: int) -> Iterator[Case]:
        """10,000 kills; 240 in the small form."""
        for number in range(24 if small else 1000):
            yield {"pages": PAGE_COUNTS[number % 3], "seed": f"{seed}/{number}"}

    def check(self, case: Case, tally: Tally) -> None:
        """Some kills, or the one that is on the tape."""
        if "tape" in case:
            self._play(case)
            return
        source = random.Random(case["seed"])
        for _ in range(KILLS_OF_A_CASE):
            _Kill(case["pages"], source.uniform(0, LONGEST_S)).run(tally)
            tally.counts[self.unit] += 1

    def figures(self, tally: Tally) -> str:
        """What the table says."""
        counts = tally.counts
        return (
            f"{counts['delivered']:,} records delivered, {counts['lost']:,} overwritten and counted; kills: "
            f"{counts['kills before a commit']:,} before a commit, {counts['kills between commit and return']:,} "
            f"after it, {counts['kills at a page turn']:,} at a page turn; {counts['copies overtaken by the writer']:,} "
            f"copies overtaken"
        )

    @staticmethod
    def _play(case: Case) -> None:
        reader = reader_of(case["pages"], Tape.playing(case["tape"]))
        found: list[Chunk | Gap] = []
        try:
            for _ in range(case["polls"]):
                found += reader.poll()
            while items := reader.poll(final=True):
                found += items
        except TapeEnded:
            return
        check_stream(found, unpack(case["lane"]), case["acked"], case["started"])


def geometry_of(pages: int) -> Geometry:
    """Pages of 1 KiB: a page turn every eight records or so."""
    return Geometry(
        SegmentConfig(
            page_bytes=PAGE_BYTES, life_pages=2, vital_pages=2, bulk_pages=pages, record_bytes=256, span_slots=1
        )
    )


def reader_of(pages: int, read: Tape | object) -> RingReader:
    """The shipped reader of the bulk lane."""
    geometry = geometry_of(pages)
    return RingReader(
        read, lane=BULK, offset=geometry.lane_offsets[BULK], page_bytes=PAGE_BYTES, page_count=geometry.lane_pages[BULK]
    )


class _Kill:
    """One writer, from its birth to its drained lane."""

    def __init__(self, pages: int, after_s: float) -> None:
        self.pages = pages
        self.after_s = after_s
        self.geometry = geometry_of(pages)

    def run(self, tally: Tally) -> None:
        segment = SegmentFile.create_anonymous(self.geometry.config, IDENTITY)
        side = mmap.mmap(-1, mmap.PAGESIZE)
        try:
            self._run(segment, memoryview(side).cast("Q"), tally)
        finally:
            segment.close()

    def _run(self, segment: SegmentFile, words: memoryview, tally: Tally) -> None:
        tape = Tape(segment.read)
        reader = reader_of(self.pages, tape)
        pid = os.fork()
        if pid == 0:
            _write_until_killed(segment.fd, words)
        found: list[Chunk | Gap] = []
        polls = 0
        try:
            deadline = time.monotonic() + self.after_s
            while time.monotonic() < deadline:
                found += reader.poll()
                polls += 1
        finally:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        expect(os.WIFSIGNALED(status), f"the writer ended by itself, with {status}")
        acked, started = words[1], words[0]
        lane = segment.read(self.geometry.lane_offsets[BULK], self.pages * PAGE_BYTES)
        while items := reader.poll(final=True):
            found += items
        try:
            emitted = check_stream(found, lane, acked, started)
        except Broken as broken:
            evidence = {"tape": tape.to_json(), "polls": polls, "lane": pack(lane), "acked": acked, "started": started}
            raise Broken(str(broken), **evidence) from broken
        self._cover(tally, tape, lane, reader, (acked, emitted, started))

    def _cover(self, tally: Tally, tape: Tape, lane: bytes, reader: RingReader, moment: tuple[int, int, int]) -> None:
        """Note what this run went through."""
        counts = tally.counts
        acked, emitted, started = moment
        counts["delivered"] += reader.delivered
        counts["lost"] += reader.lost
        counts["laps"] += bool(reader.lost)
        counts["kills before a commit"] += emitted < started
        counts["kills between commit and return"] += acked < emitted
        heads = [PAGE_HEAD.unpack_from(lane, at) for at in range(0, len(lane), PAGE_BYTES)]
        newest = max(heads)
        counts["page turns"] += newest[0]
        is_being_turned = emitted > 0 and any(page_no == 0 and commit for page_no, _, commit in heads)
        counts["kills at a page turn"] += is_being_turned or (newest[0] > 0 and newest[2] >> 32 == 0)
        reads = tape.reads
        for (at, size, data), _, (again, _, later) in zip(reads, reads[1:], reads[2:], strict=False):
            if at == again and size == PAGE_HEAD_BYTES and data[:8] != later[:8] and data[:8] != bytes(8):
                counts["copies overtaken by the writer"] += 1


def _write_until_killed(fd: int, words: memoryview) -> NoReturn:
    try:
        mapped = MappedSegment(fd)
        writer = SegmentWriter(mapped.memory, mapped.geometry, encode_dropped=lambda _: b"", ring=lambda: None)
        seq = 0
        while True:
            body = body_of(seq)
            seq += 1
            words[0] = seq
            writer.write(BULK, body, 0)
            words[1] = seq
    finally:
        os._exit(1)


def check_stream(found: list[Chunk | Gap], lane: bytes, acked: int, started: int) -> int:
    """Hold what was found against what was written, the dead lane, and the two words. Returns how many were committed."""
    next_seq = 0
    delivered = set()
    overwritten_below = _oldest_resident(lane)
    for item in found:
        expect(item.first_seq == next_seq, f"{item.first_seq} after {next_seq - 1}: out of order, or twice, or skipped")
        next_seq += item.count
        if isinstance(item, Gap):
            expect(item.cause == "overwritten", f"{item.count} records from {item.first_seq} on are {item.cause}")
            expect(next_seq <= overwritten_below, f"{item} is lost, and {overwritten_below} is the oldest there is")
            continue
        records = list(item)
        expect(len(records) == item.count, f"{item.count} records announced, {len(records)} there")
        for seq, _, payload in records:
            expect(payload == body_of(seq), f"record {seq} is torn: {payload!r}")
            delivered.add(seq)
    resident = {seq for seq in _residents(lane) if seq not in delivered}
    expect(not resident, f"committed, in the dead lane, and not delivered: {sorted(resident)[:10]}")
    expect(acked <= next_seq <= started, f"{acked} acknowledged, {next_seq} found, {started} begun")
    return next_seq


def _residents(lane: bytes) -> Iterator[int]:
    """The sequences that the page headers of a dead lane claim; read without any of the shipped code."""
    for at in range(0, len(lane), PAGE_BYTES):
        page_no, first_seq, commit = (int.from_bytes(lane[at + k : at + k + 8], "little") for k in (0, 8, 16))
        if page_no:
            yield from range(first_seq, first_seq + (commit >> 32))


def _oldest_resident(lane: bytes) -> int:
    return min(_residents(lane), default=0)
