"""Small lanes for tests: a writer and a reader over one buffer, and a log of every store that the writer makes.

`Bench` is the same for a whole segment's `SegmentWriter`.
"""

from __future__ import annotations

import json
import mmap
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from roam.shm.layout import (
    BULK,
    CAUSES,
    PAGE_HEAD,
    RECORD_HEAD_BYTES,
    Geometry,
    SegmentConfig,
    announced_word,
    dropped_word,
)
from roam.shm.reader import Chunk, Gap, RingReader
from roam.shm.ring import RingWriter
from roam.shm.words import words_of
from roam.shm.writer import SegmentWriter

__all__ = ["Bench", "Lane", "Record", "StoreLog", "append", "count_lost", "record_bytes", "records_of", "told"]

Record = tuple[int, int, bytes]
"""Sequence, time, payload."""


def record_bytes(payload: bytes) -> int:
    """What a record with this payload takes in a page."""
    return (RECORD_HEAD_BYTES + len(payload) + 7) & ~7


def append(writer: RingWriter, payload: bytes, time_ns: int = 0, taken: int | None = None) -> bool:
    """Commit one payload as `SegmentWriter` does."""
    return writer.append(payload, crc32(payload), time_ns, taken)


def records_of(items: list[Chunk | Gap]) -> list[Record]:
    """Every record of what a poll returned."""
    return [record for item in items if isinstance(item, Chunk) for record in item]


def count_lost(items: list[Chunk | Gap]) -> int:
    """How many records the gaps of what a poll returned stand for."""
    return sum(item.count for item in items if isinstance(item, Gap))


class Lane:
    """One lane in a buffer of its own, which starts at `offset` so that a wrong base shows."""

    def __init__(
        self,
        page_bytes: int = 128,
        page_count: int = 3,
        *,
        offset: int = 64,
        first_page_no: int = 1,
        first_seq: int = 0,
    ) -> None:
        self.page_bytes = page_bytes
        self.page_count = page_count
        self.offset = offset
        self.first_page_no = first_page_no
        self.first_seq = first_seq
        self.buffer = bytearray(offset + page_bytes * page_count)
        self.size = len(self.buffer)
        """How much of it there is to read; less for a file that was truncated."""
        self.reads = 0
        memory = memoryview(self.buffer)
        self.writer = self.new_writer(memory, memory.cast("Q"))
        self.reader = self.new_reader()

    def new_writer(self, memory: Any, words: Any, kind: type[RingWriter] = RingWriter, **options: Any) -> RingWriter:
        """A writer from the lane's first page on, over other views."""
        return kind(
            memory,
            words,
            offset=self.offset,
            page_bytes=self.page_bytes,
            page_count=self.page_count,
            first_page_no=self.first_page_no,
            first_seq=self.first_seq,
            **options,
        )

    def new_reader(self, kind: type[RingReader] = RingReader) -> RingReader:
        """A reader from the lane's first page on."""
        return kind(
            lambda offset, size: self.read(offset, size),  # noqa: PLW0108 – tests replace `read`
            lane=2,
            offset=self.offset,
            page_bytes=self.page_bytes,
            page_count=self.page_count,
            first_page_no=self.first_page_no,
            first_seq=self.first_seq,
        )

    def read(self, offset: int, size: int) -> bytes:
        """As `SegmentFile.read`."""
        self.reads += 1
        return bytes(self.buffer[offset : min(offset + size, self.size)])

    def append(self, payload: bytes, time_ns: int = 0, taken: int | None = None) -> bool:
        """Commit one payload."""
        return append(self.writer, payload, time_ns, taken)

    def base(self, slot: int) -> int:
        """Where a slot's page starts."""
        return self.offset + slot * self.page_bytes

    def page(self, slot: int) -> tuple[int, int, int, int]:
        """`(page_no, first_seq, count, end)` as the slot's header says."""
        page_no, first_seq, commit = PAGE_HEAD.unpack_from(self.buffer, self.base(slot))
        return page_no, first_seq, commit >> 32, commit & 0xFFFFFFFF

    def resident_seqs(self) -> list[int]:
        """The sequences that valid pages hold, as their headers say; for undamaged lanes."""
        pages = [self.page(slot) for slot in range(self.page_count)]
        return sorted(seq for page_no, first, count, _ in pages if page_no for seq in range(first, first + count))

    def fill(self, count: int, payload: bytes = b"x" * 10) -> list[Record]:
        """Commit `count` records with different contents; returns what a reader should get for them."""
        made = []
        for _ in range(count):
            seq = self.writer.emitted
            body = payload + seq.to_bytes(8, "little")
            assert self.append(body, seq + 1000)
            made.append((seq, seq + 1000, body))
        return made


@dataclass
class StoreLog:
    """Takes the place of a writer's memory and words, and logs `(offset, bytes)` in the order of the stores.

    A word is one store. Bytes are stored in pieces of at most 8, cut where words begin: a kill, or a reader, can come
    between any two.
    """

    stores: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def memory(self) -> _LoggedMemory:
        """To be given to a writer as its bytes."""
        return _LoggedMemory(self.stores)

    @property
    def words(self) -> _LoggedWords:
        """To be given to a writer as its words."""
        return _LoggedWords(self.stores)

    def apply(self, buffer: bytearray, start: int, stop: int) -> None:
        """Make some of the stores."""
        for offset, data in self.stores[start:stop]:
            buffer[offset : offset + len(data)] = data


class _LoggedMemory:
    def __init__(self, stores: list[tuple[int, bytes]]) -> None:
        self._stores = stores

    def __setitem__(self, place: slice, data: bytes) -> None:
        assert place.stop - place.start == len(data), "a memoryview takes exactly what fits"
        offset = place.start
        while offset < place.stop:
            stop = min((offset | 7) + 1, place.stop)
            self._stores.append((offset, data[offset - place.start : stop - place.start]))
            offset = stop


class _LoggedWords:
    def __init__(self, stores: list[tuple[int, bytes]]) -> None:
        self._stores = stores

    def __setitem__(self, index: int, value: int) -> None:
        self._stores.append((index * 8, value.to_bytes(8, "little")))


CONFIG = SegmentConfig(page_bytes=1024, life_pages=4, vital_pages=8, bulk_pages=64, record_bytes=512, span_slots=1)


class Bench:
    """A writer over shared memory, and everything that a host could read of it."""

    def __init__(self, config=CONFIG, **options):
        self.geometry = Geometry(config)
        self.mapping = mmap.mmap(-1, self.geometry.total_bytes)
        self.memory = memoryview(self.mapping)
        self.words = words_of(self.memory)
        self.rings = 0
        options = {
            "encode_dropped": lambda counts: b"dropped " + json.dumps(counts).encode(),
            "ring": self.ring,
        } | options
        self.writer = SegmentWriter(self.memory, self.geometry, **options)
        self.readers = [
            RingReader(
                lambda offset, size: self.mapping[offset : offset + size],
                lane=lane,
                offset=self.geometry.lane_offsets[lane],
                page_bytes=config.page_bytes,
                page_count=self.geometry.lane_pages[lane],
            )
            for lane in range(3)
        ]

    def ring(self):
        self.rings += 1

    def poll(self, lane=BULK):
        """`(sequence, time, payload)` of what is new in a lane."""
        return records_of(self.readers[lane].poll())

    def payloads(self, lane=BULK):
        return [payload for _, _, payload in self.poll(lane)]

    def dropped(self, lane=BULK):
        """Counts by cause, as the status words have them."""
        counts = {cause: self.words[dropped_word(lane, index)] for index, cause in enumerate(CAUSES)}
        return {cause: count for cause, count in counts.items() if count}

    def announced(self, lane=BULK):
        counts = {cause: self.words[announced_word(lane, index)] for index, cause in enumerate(CAUSES)}
        return {cause: count for cause, count in counts.items() if count}


def told(payloads):
    """The sums of what `Dropped` records say."""
    sums: dict[str, int] = {}
    for payload in payloads:
        if payload.startswith(b"dropped "):
            for cause, count in json.loads(payload[8:]).items():
                sums[cause] = sums.get(cause, 0) + count
    return sums
