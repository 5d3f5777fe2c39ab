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

from roam.shm.layout import BULK, PAGE_HEAD, PAGE_HEAD_BYTES
from roam.shm.mapping import MappedSegment
from roam.shm.reader import Chunk, Gap, RingReader
from roam.shm.segment import SegmentFile
from roam.shm.writer import SegmentWriter

from .dead_lane import IDENTITY, PAGE_BYTES, body_of, check_stream, geometry_of, reader_of
from .goal import Broken, Case, Goal, Tally, expect
from .tape import Tape, TapeEnded, pack, unpack

__all__ = ["RandomKills"]

PAGE_COUNTS = (4, 16, 64)
LONGEST_S = 0.012
KILLS_OF_A_CASE = 10
"""One segment's worth of kills is a case; a shard takes a case at a time."""


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
