"""Segments of at most 64 KiB as their cells left them, and what was committed there, known without reading them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from roam.clock import ClockAnchor
from roam.shm.header import Identity, pack_header
from roam.shm.layout import (
    BULK,
    LANES,
    LIFE,
    PAGE_HEAD,
    PAGE_HEAD_BYTES,
    RECORD_HEAD,
    RECORD_HEAD_BYTES,
    Geometry,
    SegmentConfig,
    StatusWord,
)
from roam.shm.mailbox import MailboxWriter
from roam.shm.reader import RingReader
from roam.shm.segment import boot_id
from roam.shm.spans import SpanTable
from roam.shm.words import words_of
from roam.shm.writer import SegmentWriter
from roam.stage import ExceptionText, Stage
from roam.tracing.codec import encode_dropped, encode_event, encode_span_enter
from roam.tracing.config import TracingConfig

__all__ = ["FILLS", "IMAGE_BYTES", "SHAPES", "Image", "Record", "images"]

IMAGE_BYTES = 64 << 10
NOBODY_PID = (1 << 22) + 1
"""One more than Linux gives to a process."""

Record = tuple[int, int, bytes]
"""Sequence, monotonic time, body."""

_ANCHOR = ClockAnchor(1_738_324_800_000_000_000, 50_000_000_000)
_SPAN, _TRACE = b"spanspan", b"tracetracetrace!"

# Texts that mean something to a terminal, in every place that a cell can put them.
_RUDE = ("plain", "\x1b[2J\x1b]0;title\x07", "two\nlines\r", "\u202ereversed", "\x00\x9b31m\x7f", "\u2028")

SHAPES = {
    "256-byte pages": SegmentConfig(
        page_bytes=256, record_bytes=128, life_pages=16, vital_pages=32, bulk_pages=128, span_slots=8
    ),
    "1-KiB pages": SegmentConfig(
        page_bytes=1024, record_bytes=512, life_pages=4, vital_pages=8, bulk_pages=32, span_slots=8
    ),
    "4-KiB pages": SegmentConfig(
        page_bytes=4096, record_bytes=2048, life_pages=2, vital_pages=2, bulk_pages=7, span_slots=8
    ),
    "8832-byte pages": SegmentConfig(
        page_bytes=8832, record_bytes=4096, life_pages=2, vital_pages=2, bulk_pages=2, span_slots=2
    ),
}
FILLS = {"empty": 0.0, "begun": 0.05, "half full": 0.5, "lapped": 2.6}
"""How often the bytes written would fill the lanes. A later one continues an earlier one."""


@dataclass(frozen=True)
class Image:
    """One segment. What is written here is known from the writing side only."""

    shape: str
    fill: str
    geometry: Geometry
    data: bytes
    committed: tuple[frozenset[Record], ...]
    """Lane by lane, every record that was ever committed."""
    spans: frozenset[tuple[int, bytes]]
    """Time and body of all that ever stood in the open-span table."""
    configs: frozenset[tuple[int, bytes]]
    """Every configuration that was in force, with its generation."""

    def readers(self, read: Callable[[int, int], bytes]) -> list[RingReader]:
        """The shipped readers of all lanes."""
        config, geometry = self.geometry.config, self.geometry
        return [
            RingReader(read, lane=lane, offset=offset, page_bytes=config.page_bytes, page_count=pages)
            for lane, (offset, pages) in enumerate(zip(geometry.lane_offsets, geometry.lane_pages, strict=True))
        ]

    @functools.cached_property
    def pages(self) -> tuple[tuple[int, int, range], ...]:
        """Lane, offset and sequences of every page that holds records, as its own header says."""
        return tuple(
            (lane, at, range(first_seq, first_seq + (commit >> 32)))
            for lane, at in self.slots
            for page_no, first_seq, commit in [PAGE_HEAD.unpack_from(self.data, at)]
            if page_no and commit >> 32
        )

    @functools.cached_property
    def ends(self) -> tuple[int, ...]:
        """Offsets of each lane's oldest page, where a reader begins that was overtaken, and of its newest."""
        lanes = [[page for page in self.pages if page[0] == lane] for lane in range(len(LANES))]
        return tuple(end(pages, key=lambda page: page[2].start)[1] for pages in lanes if pages for end in (min, max))

    @functools.cached_property
    def slots(self) -> tuple[tuple[int, int], ...]:
        """Lane and offset of every place for a page."""
        geometry = self.geometry
        return tuple(
            (lane, offset + slot * geometry.config.page_bytes)
            for lane, (offset, pages) in enumerate(zip(geometry.lane_offsets, geometry.lane_pages, strict=True))
            for slot in range(pages)
        )

    @functools.cached_property
    def record_offsets(self) -> tuple[int, ...]:
        """Where the records begin that the pages hold."""
        return tuple(at for page in self.pages for at in self._offsets_in(page))

    def _offsets_in(self, page: tuple[int, int, range]) -> Iterator[int]:
        _, at, seqs = page
        at += PAGE_HEAD_BYTES
        for _ in seqs:
            yield at
            at = (at + RECORD_HEAD_BYTES + RECORD_HEAD.unpack_from(self.data, at)[0] + 7) & ~7


class _Cell:
    """A cell in a byte array, with a clock of its own: two of the same kind leave the same bytes."""

    def __init__(self, shape: str) -> None:
        self.geometry = Geometry(SHAPES[shape])
        self.buffer = bytearray(self.geometry.total_bytes)
        memory = memoryview(self.buffer)
        self.words = words_of(memory)
        self._ticks: list[int] = []
        self._told: list[bytes] = []
        self.committed: list[set[Record]] = [set(), set(), set()]
        self.spans: set[tuple[int, bytes]] = set()
        self.configs: set[tuple[int, bytes]] = set()
        header = pack_header(self.geometry, _identity(f"cell {_RUDE[1]}"))
        self.buffer[: len(header)] = header
        self.mailbox = MailboxWriter(self._store)
        self.writer = SegmentWriter(
            memory, self.geometry, encode_dropped=self._encode_dropped, ring=lambda: None, clock=self._tick
        )
        self.table = SpanTable(
            memory, self.words, offset=self.geometry.spans_offset, slots=self.geometry.config.span_slots
        )
        self.words[StatusWord.PID] = NOBODY_PID
        self.words[StatusWord.STATE] = 1
        self.words[StatusWord.STAGE] = Stage.RUN

    def _store(self, offset: int, data: bytes) -> None:
        self.buffer[offset : offset + len(data)] = data

    def _tick(self) -> int:
        self._ticks.append(_ANCHOR.monotonic_ns + 1000 * (len(self._ticks) + 1))
        return self._ticks[-1]

    def _encode_dropped(self, counts: dict[str, int]) -> bytes:
        self._told.append(encode_dropped(counts))
        return self._told[-1]

    def configure(self, capture: str) -> None:
        """What the host does."""
        body = TracingConfig(capture).to_bytes()
        self.configs.add((self.mailbox.post(body), body))
        self.words[StatusWord.ACKNOWLEDGED] = self.mailbox.generation

    def write(self, lane: int, body: bytes) -> None:
        """Commit a record, behind the notice of what was dropped before it, and note both."""
        first_seq, first_tick = self.writer.lanes[lane].emitted, len(self._ticks)
        self._told.clear()
        self.writer.write(lane, body, self.mailbox.generation)
        written = zip(itertools.count(first_seq), self._ticks[first_tick:], [*self._told, body], strict=False)
        self.committed[lane].update(written)

    def open_span(self, number: int) -> int:
        """Enter a span; returns its handle."""
        body = encode_span_enter(
            20, f"app.{_RUDE[number % 6]}", f"span {number} {_RUDE[-number % 6]}", {"n": number}, 7, bytes([number] * 8),
            _TRACE, bytes([number // 2] * 8), limit_bytes=400,
        )  # fmt: skip
        assert body is not None
        time_ns = _ANCHOR.monotonic_ns + number
        self.spans.add((time_ns, body))
        return self.table.open(body, time_ns)

    def image(self, shape: str, fill: str) -> Image:
        """The bytes as they are now."""
        return Image(
            shape,
            fill,
            self.geometry,
            bytes(self.buffer),
            tuple(frozenset(records) for records in self.committed),
            frozenset(self.spans),
            frozenset(self.configs),
        )


def _identity(name: str) -> Identity:
    # Of this boot, so that a forged process id is looked up.
    return Identity(
        peer_id=5,
        epoch=2,
        name=name,
        nonce=bytes(range(16)),
        host_pid=NOBODY_PID,
        host_start_ticks=1,
        boot_id=boot_id(),
        anchor=_ANCHOR,
        roam_version="0.1.0",
        python_version="3.11.7",
    )


def _body(lane: int, number: int, room: int) -> bytes:
    rude = _RUDE[number % len(_RUDE)]
    if room < 400:
        return encode_event(20, "a", f"{number}{rude[:9]}", {}, 7, _SPAN, _TRACE, limit_bytes=512) or b""
    fields = {"n": number, "text": rude, "more": [number, {"x": rude}]} if number % 3 else {"pad": "x" * (number % 90)}
    exception = None
    if lane == LIFE:
        exception = ExceptionText("ValueError", rude, f"Traceback:\n  {rude}\nValueError: {rude}\n")
    level = (40, 30, 20)[lane]
    body = encode_event(
        level, f"app.{rude}", f"record {number} {rude}", fields, 7, _SPAN, _TRACE, exception, limit_bytes=512
    )
    assert body is not None
    return body


def _fill(cell: _Cell, share: float) -> None:
    """Write into all lanes alike. Whoever is told to write less has written the beginning of the same stream."""
    config = cell.geometry.config
    cell.configure("debug")
    handles = [cell.open_span(number) for number in range(1, config.span_slots + 2 if share else 1)]
    filled, counts = [0.0] * len(LANES), [0] * len(LANES)
    while min(filled) < share:
        lane = filled.index(min(filled))
        body = _body(lane, counts[lane], config.record_bytes)
        if counts[lane] % 50 == 20:
            cell.writer.drop(lane, "sampled")
        cell.write(lane, body)
        counts[lane] += 1
        filled[lane] += (len(body) + RECORD_HEAD_BYTES) / (cell.geometry.lane_pages[lane] * config.page_bytes)
    if share:
        cell.table.close(handles[0])
        cell.configure("info,app=debug")
        cell.writer.drop(BULK, "oversize")


@functools.cache
def images() -> dict[tuple[str, str], Image]:
    """All of them, by shape and state of fill."""
    found = {}
    for shape, (fill, share) in itertools.product(SHAPES, FILLS.items()):
        cell = _Cell(shape)
        _fill(cell, share)
        found[shape, fill] = cell.image(shape, fill)
        assert len(found[shape, fill].data) <= IMAGE_BYTES
    return found
