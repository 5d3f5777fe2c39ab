"""Damaged segments: whatever the bytes are, a reader ends soon, raises nothing, and shows nothing that was not written."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from zlib import crc32

from roam.errors import DumpError, SegmentError
from roam.postmortem.document import document, json_text
from roam.postmortem.model import PostMortem
from roam.postmortem.segment import of_segment
from roam.shm.layout import LANES, PAGE_HEAD_BYTES, STATUS_OFFSET, STATUS_WORDS
from roam.shm.mailbox import read_config
from roam.shm.reader import RETRIES, Chunk, Gap, RingReader
from roam.shm.ring import RingWriter
from roam.shm.segment import SegmentFile
from roam.shm.spans import OpenBody, read_open_spans
from roam.shm.words import words_of
from roam.tracing.inspection import peer_statistics
from roam.tracing.statistics import PeerStatistics
from tests.session import SESSION_DIRECTORY

from .bounds import MOST_EXTRA_BYTES, expect_safe, extra_bytes_of, peak_growth, timed
from .damage import CROSSING, KINDS, damage_page, damage_segment
from .goal import Broken, Case, Goal, Tally, expect
from .images import FILLS, SHAPES, Image, Record, images
from .wire import forged_body

__all__ = ["FuzzSegments"]

T = TypeVar("T")

BATCH = 250
PASSES = 5
"""Final passes over a lane, as in `roam.tracing.collector`."""
RUDE_STDERR = b"\x1b]0;gotcha\x07 \xff\xfe\x9b1m\r\n" * 40
RUDE_FAULT = (
    b"Fatal Python error: \x1b[1m\r\n\nCurrent thread 0x1 (most recent call first):\n  File \x1b, line 9 in x\n"
)


# r[verify shm.reader.resume]
# r[verify dump.render.escape]
class FuzzSegments(Goal):
    """Segments with damage of every kind, as the host, the inspector and the cell read them."""

    name = "fuzz-segments"
    unit = "segments"
    promise = (
        "no exception but the typed one; <= 20 ms and <= 4 MiB for 64 KiB; only committed records delivered; every "
        "page but the damaged one whole; numbers that add up; text that is safe to show"
    )
    covers = (
        "not opened",
        "shown",
        "forged",
        "read while alive",
        "with one damaged page",
        "records delivered",
        "records lost",
        "damaged pages with records left",
        "open spans torn",
        *KINDS,
    )
    shards = 2

    def cases(self, *, small: bool, seed: int) -> Iterator[Case]:
        """250,000 segments; 1,000 in the small form."""
        for number in range(4 if small else 1000):
            yield {"seed": str(seed), "first": number * BATCH, "count": BATCH}

    def check(self, case: Case, tally: Tally) -> None:
        """A batch of segments, each with damage of its own."""
        numbers = range(case["first"], case["first"] + case["count"])
        with tempfile.TemporaryDirectory(dir=SESSION_DIRECTORY) as directory:
            path = Path(directory) / "5-x.segment"
            path.with_suffix(".stderr").write_bytes(RUDE_STDERR)
            path.with_suffix(".fault").write_bytes(RUDE_FAULT)

            # What is only made once is no cost of a segment.
            _Attempt(case["seed"], numbers[0] - numbers[0] % 20, path, Tally()).run()

            def check_all(wrap: Callable[[Callable[[], object]], object], tally: Tally) -> None:
                for number in numbers:
                    try:
                        wrap(lambda number=number: _Attempt(case["seed"], number, path, tally).run())  # type: ignore[misc]
                    except Exception as error:
                        problem = str(error) if isinstance(error, Broken) else f"{type(error).__name__}: {error}"
                        raise Broken(f"segment {number}: {problem}", first=number, count=1) from error

            growth = peak_growth(lambda: check_all(lambda attempt: attempt(), tally))
            if growth > MOST_EXTRA_BYTES:
                # Which of them, or none: a process also grows because its heap falls into pieces.
                check_all(extra_bytes_of, Tally())
        tally.samples["growth"].append(growth)

    def figures(self, tally: Tally) -> str:
        """What the table says."""
        counts = tally.counts
        return (
            f"{counts['records delivered']:,} records delivered, {counts['records lost']:,} counted as lost; "
            f"{counts['shown']:,} rendered, {counts['read while alive']:,} read while alive, "
            f"{counts['with one damaged page']:,} with one damaged page, {counts['not opened']:,} refused; "
            f"at most {max(tally.samples['ms']):.1f} ms"
        )


class _Attempt:
    """One damaged segment."""

    def __init__(self, seed: str, number: int, path: Path, tally: Tally) -> None:
        self.source = random.Random(f"{seed}/{number}")
        self.number = number
        self.path = path
        self.tally = tally
        self.counts = tally.counts
        self.shape = self.source.choices(tuple(SHAPES), (1, 3, 3, 3))[0]
        fill = self.source.choices(tuple(FILLS), (1, 2, 4, 5))[0]
        self.image = images()[self.shape, fill]
        self.data = bytearray(self.image.data)
        self.written = self.image.committed
        """What each lane may deliver."""

    def run(self) -> None:
        """Damage it and read it, in one of five ways."""
        way = self.number % 20
        if way == 0:
            self._show(self.data[: self._damage()])
        elif self.number % 40 == 9:
            self._forge_records()
            self._show(bytes(self.data))
        elif way < 3:
            self._read_while_alive()
        elif way < 9:
            self._read_around_a_page()
        else:
            self._read_dead()
        self.counts[FuzzSegments.unit] += 1

    def _damage(self) -> int:
        kinds, length = damage_segment(self.source, self.image, self.data)
        self.counts.update(kinds)
        if not CROSSING.isdisjoint(kinds):
            self.written = (frozenset[Record]().union(*self.image.committed),) * len(LANES)
        return length

    def _timed(self, function: Callable[[], T]) -> T:
        """Hold the time that a reading takes against the limit."""
        value, seconds = timed(function)
        slowest = self.tally.samples["ms"]
        slowest[:] = [max([*slowest, seconds * 1000])]
        return value

    def _read_dead(self) -> None:
        length = self._damage()
        found = self._timed(lambda: _read(self.image, self.data, length))
        self._check_found(found)
        if length == len(self.data):
            config = read_config(memoryview(self.data), words_of(memoryview(self.data)))
            expect(config is None or config in self.image.configs, f"{config} was never in force")

    def _read_around_a_page(self) -> None:
        """One page is damaged: all others arrive, and where its head is sound the number of the lost is exact."""
        at = damage_page(self.source, self.image, self.data)
        found = self._timed(lambda: _read(self.image, self.data, len(self.data)))
        self._check_found(found)
        delivered = [{record[0] for item in items for record in item} for items in found.chunks]
        for its_lane, offset, seqs in self.image.pages:
            if offset == at:
                self.counts["damaged pages with records left"] += not delivered[its_lane].isdisjoint(seqs)
            else:
                missing = [seq for seq in seqs if seq not in delivered[its_lane]]
                expect(not missing, f"page at {at} is damaged, and of {LANES[its_lane]} these are gone: {missing[:5]}")
        head = slice(at, at + PAGE_HEAD_BYTES)
        if self.data[head] == self.image.data[head]:
            for reader, committed in zip(found.readers, self.image.committed, strict=True):
                expect(reader.next_seq == len(committed), f"{reader.next_seq} found, {len(committed)} committed")
        self.counts["with one damaged page"] += 1

    def _read_while_alive(self) -> None:
        """The host's own reader: it has seen an earlier state of the segment, and reads on when it is damaged."""
        earlier = images()[self.shape, self.source.choice(tuple(FILLS)[: tuple(FILLS).index(self.image.fill) + 1])]
        self.path.write_bytes(earlier.data)
        segment = SegmentFile.open(self.path)
        try:
            reads = 0

            def read(offset: int, size: int) -> bytes:
                nonlocal reads
                reads += 1
                return segment.read(offset, size)

            readers = self.image.readers(read)
            found: list[list[Chunk | Gap]] = [reader.poll() for reader in readers]
            length = self._damage()
            self.path.write_bytes(self.data[:length])
            for turn in range(2 * RETRIES + 2 + PASSES):
                for lane, reader in enumerate(readers):
                    reads = 0
                    found[lane] += reader.poll(final=turn >= 2 * RETRIES + 2)
                    most = 16 * self.image.geometry.lane_pages[lane] + 32
                    expect(reads <= most, f"{reads} reads in one poll of {LANES[lane]}")
            self._check_found(_found(readers, found, segment.read, self.image, segment.status_words()))
        finally:
            segment.close()
        self.counts["read while alive"] += 1

    def _check_found(self, found: _Found) -> None:
        """What was delivered was committed, in its order and once; the numbers add up."""
        for lane, (reader, items) in enumerate(zip(found.readers, found.items, strict=True)):
            next_seq = 0
            for item in items:
                if item.first_seq != next_seq or item.count <= 0:
                    raise Broken(f"after {next_seq - 1} comes {item}")
                next_seq += item.count
                if isinstance(item, Chunk):
                    records = list(item)
                    if len(records) != item.count:
                        raise Broken(f"{item.count} records announced, {len(records)} there")
                    if not self.written[lane].issuperset(records):
                        forged = set(records) - self.written[lane]
                        raise Broken(f"never written into {LANES[lane]}: {sorted(forged)[:3]}")
                    self.counts["records delivered"] += item.count
            expect(next_seq == reader.next_seq < 2**64, f"{next_seq} found, {reader.next_seq} told")
        _check_numbers(found.statistics)
        self.counts["records lost"] += sum(reader.lost for reader in found.readers if reader.lost < 2**16)
        expect(self.image.spans.issuperset(found.spans), f"never entered: {found.spans}")
        self.counts["open spans torn"] += found.torn

    def _forge_records(self) -> None:
        """Fill an empty segment with bodies that no encoder makes, under checksums that are right."""
        self.data = bytearray(images()[self.shape, "empty"].data)
        memory, source = memoryview(self.data), self.source
        geometry = self.image.geometry
        for offset, pages in zip(geometry.lane_offsets, geometry.lane_pages, strict=True):
            page_bytes = geometry.config.page_bytes
            writer = RingWriter(memory, words_of(memory), offset=offset, page_bytes=page_bytes, page_count=pages)
            for _ in range(source.choice((3, 30, 100))):
                body = forged_body(source, source.choice((100, 1100, writer.largest_bytes)))[: writer.largest_bytes]
                writer.append(body, crc32(body), source.choice((0, 50_000_000_000, 2**63, 2**64 - 1)))
        self.counts["forged"] += 1

    def _show(self, data: bytes) -> None:
        """All that `roam show` does with a segment."""
        self.path.write_bytes(data)

        def show() -> tuple[PostMortem, str, str] | None:
            try:
                pm = of_segment(self.path)
            except (SegmentError, DumpError):
                return None
            return pm, pm.render(), json_text(document(pm, last=50))

        shown = self._timed(show)
        if shown is None:
            self.counts["not opened"] += 1
            return
        pm, text, json = shown
        expect_safe(text, "the report")
        expect_safe(json, "the document")
        _check_numbers(pm.statistics)
        self.counts["shown"] += 1


@dataclass(frozen=True)
class _Found:
    """What one reading of a segment brought."""

    readers: list[RingReader]
    items: list[list[Chunk | Gap]]
    statistics: PeerStatistics
    spans: list[OpenBody]
    torn: int

    @property
    def chunks(self) -> list[list[Chunk]]:
        """Lane by lane, without the gaps."""
        return [[item for item in items if isinstance(item, Chunk)] for items in self.items]


def _read(image: Image, data: bytearray, length: int) -> _Found:
    """The final drain of all lanes and everything else of a segment, as for a dead cell."""
    whole = memoryview(data)[:length]

    def read(offset: int, size: int) -> bytes:
        return bytes(whole[offset : offset + size])

    readers = image.readers(read)
    found: list[list[Chunk | Gap]] = []
    for reader in readers:
        items: list[Chunk | Gap] = []
        for _ in range(PASSES):
            more = reader.poll(final=True)
            if not more:
                break
            items += more
        found.append(items)
    words = read(STATUS_OFFSET, STATUS_WORDS * 8).ljust(STATUS_WORDS * 8, b"\0")
    return _found(readers, found, read, image, list(memoryview(words).cast("Q")))


def _found(
    readers: list[RingReader],
    items: list[list[Chunk | Gap]],
    read: Callable[[int, int], bytes],
    image: Image,
    words: list[int],
) -> _Found:
    spans, torn = read_open_spans(read, offset=image.geometry.spans_offset, slots=image.geometry.config.span_slots)
    return _Found(readers, items, peer_statistics(readers, words, {}, torn=torn), spans, torn)


def _check_numbers(statistics: PeerStatistics) -> None:
    """The accounting identity, out of numbers of which none is negative."""
    for name, lane in statistics.lanes.items():
        expect(lane.emitted == lane.delivered + lane.lost + lane.resident, f"{name} does not add up: {lane}")
        expect(min(lane.emitted, lane.delivered, lane.lost, lane.resident) >= 0, f"{name} counts below zero: {lane}")
