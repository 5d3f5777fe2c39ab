"""The ABI of a segment: every offset, size and number that two processes must agree on.

All values are little-endian. A segment is one file::

    offset      bytes                what                       written by
    0           512                  header                     host, once, magic last
    512         64                   host words                 host
    576         64                   config word                host
    640         896                  status words               cell
    1536        2 x slot             config mailbox slots       host
    ...         span_slots x 1024    open-span table            cell
    ...         pages x page_bytes   lanes life, vital, bulk    cell

The words of different writers lie on different 64-byte lines. The lanes start on a 4096-byte boundary.

A lane is a ring of pages. Page number p (from 1; 0 is never valid) lives in slot `(p - 1) % pages`::

    0    u64  page_no     0 while the page is being turned
    8    u64  first_seq   sequence number of its first record
    16   u64  commit      count << 32 | end_offset
    24   ...  records, each padded to 8 bytes

A record::

    0    u32  length      of the payload
    4    u32  crc32       of payload, then time_ns, length, sequence and page number (`SEAL`)
    8    u64  time_ns     CLOCK_MONOTONIC
    16   ...  payload

An open-span slot is a state word (`use << 1 | body`, 0 = free) and two bodies, each shaped like a record whose
sequence is `use` and whose page number is the slot's index.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Self

__all__ = [
    "ABI_VERSION",
    "BULK",
    "CAUSES",
    "CONFIG_OFFSET",
    "HEADER",
    "HEADER_BYTES",
    "HOST_OFFSET",
    "LANES",
    "LIFE",
    "MAGIC",
    "MAILBOX_HEAD",
    "MAILBOX_OFFSET",
    "MAILBOX_SLOT_BYTES",
    "PAGE_HEAD",
    "PAGE_HEAD_BYTES",
    "RECORD_HEAD",
    "RECORD_HEAD_BYTES",
    "SEAL",
    "SPAN_BODY_BYTES",
    "SPAN_SLOT_BYTES",
    "STACKS_SIGNAL",
    "STATUS_OFFSET",
    "STATUS_WORDS",
    "SUPPRESSED_SLOTS",
    "VITAL",
    "Geometry",
    "HostWord",
    "SegmentConfig",
    "StatusWord",
    "announced_word",
    "dropped_word",
]

MAGIC = b"roam-seg"
ABI_VERSION = 1

LANES = ("life", "vital", "bulk")
LIFE, VITAL, BULK = range(3)

CAUSES = ("newest", "timed_out", "oversize", "nested", "sampled", "unencodable", "forked", "finalizing")
"""Why a record was dropped before it got a sequence number; the order is that of the status words."""

SUPPRESSED_SLOTS = 48

STACKS_SIGNAL = 41
"""SIGRTMIN + 7, which neither glibc nor the standard library uses. It stands here and not in the segment: a host sends no
signal that a cell has chosen."""

HEADER_BYTES = 512
HEADER = struct.Struct("<8s II Q 8I QQ 16s QQ QQ 16s 128s 32s 32s 16s 8s I")
"""magic | abi_version, header_bytes | total_bytes | page_bytes, life, vital, bulk pages, record_bytes, span_slots,
span_slot_bytes, mailbox_slot_bytes | peer_id, epoch | nonce | host_pid, host_start_ticks | wall_ns, monotonic_ns |
boot_id | name | roam version | python version | trace id, span id of the cause | crc32 of all before it but the magic."""

HOST_OFFSET = 512
CONFIG_OFFSET = 576
STATUS_OFFSET = 640
STATUS_WORDS = 112
MAILBOX_OFFSET = 1536
MAILBOX_SLOT_BYTES = 4096
MAILBOX_HEAD = struct.Struct("<QII")
"""generation | length | crc32 of the bytes, then of generation and length."""

PAGE_HEAD = struct.Struct("<QQQ")
PAGE_HEAD_BYTES = PAGE_HEAD.size
RECORD_HEAD = struct.Struct("<IIQ")
RECORD_HEAD_BYTES = RECORD_HEAD.size
SEAL = struct.Struct("<QIQQ")
"""time_ns | length | sequence | page_no: what binds a record's checksum to its place."""

SPAN_SLOT_BYTES = 1024
SPAN_BODY_BYTES = (SPAN_SLOT_BYTES - 16) // 2


class HostWord:
    """Word indices, from the start of the segment, of what the host writes."""

    PARKED = HOST_OFFSET // 8
    """0, or a number that is new each time the host stops looking at this segment: the cell rings once for each."""
    TAKEN = PARKED + 1
    """Three words, one per lane: the sequence below which all is copied or counted."""
    STOP = PARKED + 4
    """1 once the host has asked the cell to stop."""
    GENERATION = CONFIG_OFFSET // 8
    """The config generation in force; its slot is `generation & 1`."""


class StatusWord:
    """Word indices, from the start of the segment, of what the cell says of itself. All advisory to the host."""

    STATE = STATUS_OFFSET // 8
    """0 free, 1 attached, 2 goodbye."""
    STAGE = STATE + 1
    PID = STATE + 2
    ACKNOWLEDGED = STATE + 3
    """The config generation that every later record was judged by."""
    HEARTBEAT = STATE + 4
    """Monotonic time of the last record, over all lanes: every record up to it is in its lane."""
    FAULT_ARMED = STATE + 5
    """1 once `STACKS_SIGNAL` makes the cell write the stacks of all threads; fatal signals do it, too."""
    RESULT = STATE + 6
    """0, or 1 + the length in bytes of the result."""
    SPANS_OVERFLOWED = STATE + 7
    CPU_NS = STATE + 8
    MAX_RSS = STATE + 9
    BEAT = STATE + 10
    """Monotonic time of the last sign of life that is no record: a beat, or a span that was entered."""
    REFUSED = STATE + 11
    """The last config generation that was whole and that the cell did not understand."""
    DROPPED = STATE + 16
    """3 x 8 words: lane by lane, in the order of `CAUSES`."""
    ANNOUNCED = DROPPED + 24
    """3 x 8 words: how many of those a `Dropped` record in the lane has told of."""
    SUPPRESSED = ANNOUNCED + 24
    """48 words: how many records sampling and rate limits kept out, by the slot that the configuration gives a key."""


def dropped_word(lane: int, cause: int) -> int:
    """The word that counts records of `lane` dropped for `CAUSES[cause]`."""
    return StatusWord.DROPPED + lane * len(CAUSES) + cause


def announced_word(lane: int, cause: int) -> int:
    """The word that says how many of `dropped_word` the lane itself has told of."""
    return StatusWord.ANNOUNCED + lane * len(CAUSES) + cause


class _Sizes(NamedTuple):
    page_bytes: int
    """Size of a page. A multiple of 64; at least twice `record_bytes`. Larger pages lose more at once when lapped."""
    life_pages: int
    """Pages of the lane for lifecycle records and exceptions."""
    vital_pages: int
    """Pages of the lane for WARNING and above."""
    bulk_pages: int
    """Pages of the lane for everything else."""
    record_bytes: int
    """Largest record body; what is larger is cut before it is encoded."""
    span_slots: int
    """How many open spans a death can name."""


class SegmentConfig(_Sizes):
    """Sizes of a segment, fixed at birth. Raises `ValueError` for sizes that cannot work.

    A lane should hold what the cell emits while the host cannot look: peak bytes per second times the longest stall
    in seconds. A record of three fields takes about 130 bytes, so the default bulk lane holds some 8,000 of them.
    """

    __slots__ = ()

    def __new__(
        cls,
        *,
        page_bytes: int = 32 * 1024,
        life_pages: int = 2,
        vital_pages: int = 8,
        bulk_pages: int = 32,
        record_bytes: int = 8 * 1024,
        span_slots: int = 256,
    ) -> Self:
        """Check and keep the sizes; bytes where the name says so, else counts."""
        sizes = super().__new__(cls, page_bytes, life_pages, vital_pages, bulk_pages, record_bytes, span_slots)
        limits = ((256, 1 << 24), (2, 1 << 16), (2, 1 << 16), (2, 1 << 16), (64, 1 << 16), (1, 1 << 16))
        for name, value, (least, most) in zip(_Sizes._fields, sizes, limits, strict=True):
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"SegmentConfig({name}={value!r}): must be an integer from {least} to {most}")
        if page_bytes % 64:
            raise ValueError(f"SegmentConfig(page_bytes={page_bytes}): must be a multiple of 64")
        if page_bytes < 2 * record_bytes:
            raise ValueError(
                f"SegmentConfig(record_bytes={record_bytes}): a page of {page_bytes} bytes holds records of at most "
                "half its size"
            )
        return sizes

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, int]]:
        """For pickle and copy, which call `__new__`."""
        return (), self._asdict()


class Geometry:
    """Where everything lies in a segment of a given `SegmentConfig`. Immutable by convention; offsets in bytes."""

    __slots__ = ("config", "lane_offsets", "lane_pages", "spans_offset", "total_bytes")

    def __init__(self, config: SegmentConfig) -> None:
        self.config = config
        self.spans_offset = MAILBOX_OFFSET + 2 * MAILBOX_SLOT_BYTES
        lanes_offset = -(-(self.spans_offset + config.span_slots * SPAN_SLOT_BYTES) // 4096) * 4096
        self.lane_pages = (config.life_pages, config.vital_pages, config.bulk_pages)
        offsets = []
        for pages in self.lane_pages:
            offsets.append(lanes_offset)
            lanes_offset += pages * config.page_bytes
        self.lane_offsets = tuple(offsets)
        self.total_bytes = lanes_offset


assert HEADER.size <= HEADER_BYTES <= HOST_OFFSET
assert HOST_OFFSET % 64 == CONFIG_OFFSET % 64 == STATUS_OFFSET % 64 == MAILBOX_OFFSET % 64 == 0
assert STATUS_OFFSET + STATUS_WORDS * 8 <= MAILBOX_OFFSET
assert announced_word(len(LANES) - 1, len(CAUSES) - 1) < StatusWord.SUPPRESSED
assert StatusWord.SUPPRESSED + SUPPRESSED_SLOTS <= STATUS_OFFSET // 8 + STATUS_WORDS
assert PAGE_HEAD_BYTES % 8 == RECORD_HEAD_BYTES % 8 == SPAN_BODY_BYTES % 8 == 0
assert 16 + 2 * SPAN_BODY_BYTES <= SPAN_SLOT_BYTES
