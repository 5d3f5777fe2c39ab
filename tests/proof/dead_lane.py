"""A small bulk lane that somebody is killed at: what is written there, and whether a reader found all of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from roam.clock import ClockAnchor
from roam.shm.header import Identity
from roam.shm.layout import BULK, Geometry, SegmentConfig
from roam.shm.reader import Chunk, Gap, RingReader

from .goal import expect

__all__ = ["IDENTITY", "PAGE_BYTES", "body_of", "check_stream", "geometry_of", "reader_of"]

PAGE_BYTES = 1024

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


def geometry_of(pages: int) -> Geometry:
    """Pages of 1 KiB: a page turn every eight records or so."""
    return Geometry(
        SegmentConfig(
            page_bytes=PAGE_BYTES, life_pages=2, vital_pages=2, bulk_pages=pages, record_bytes=256, span_slots=1
        )
    )


def reader_of(pages: int, read: Callable[[int, int], bytes]) -> RingReader:
    """The shipped reader of the bulk lane."""
    geometry = geometry_of(pages)
    return RingReader(
        read, lane=BULK, offset=geometry.lane_offsets[BULK], page_bytes=PAGE_BYTES, page_count=geometry.lane_pages[BULK]
    )


def _is_body(seq: int, payload: bytes) -> bool:
    return payload == body_of(seq)


def check_stream(
    found: list[Chunk | Gap],
    lane: bytes,
    acked: int,
    started: int,
    is_written: Callable[[int, bytes], bool] = _is_body,
) -> int:
    """Hold what was found against what was written, the dead lane, and the two words. Returns how many were committed.

    `is_written` says whether a payload is what the record with that sequence was to hold.
    """
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
            expect(is_written(seq, payload), f"record {seq} is torn: {payload!r}")
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
