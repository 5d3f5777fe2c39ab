"""What a lane's reader hands out: runs of validated records, gaps between them, and the validation itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

from .layout import RECORD_HEAD, RECORD_HEAD_BYTES, SEAL
from .words import MASK

__all__ = ["Chunk", "Gap", "offset_of_record", "pack_chunk", "page_records"]

_pack_head = RECORD_HEAD.pack
_unpack_head = RECORD_HEAD.unpack_from
_pack_seal = SEAL.pack


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive, validated records of one page, as raw bytes."""

    lane: int
    page_no: int
    first_seq: int
    count: int
    data: bytes

    def __iter__(self) -> Iterator[tuple[int, int, bytes]]:
        """`(sequence, monotonic_ns, payload)` of each record, oldest first. Safe for any `data`: it stops where a
        record does not fit."""
        # A list and not a generator: to the collector, which takes all of it, the difference is a quarter.
        data = self.data
        position, size = 0, len(data)
        found: list[tuple[int, int, bytes]] = []
        for seq in range(self.first_seq, self.first_seq + min(self.count, size // RECORD_HEAD_BYTES)):
            body = position + RECORD_HEAD_BYTES
            if body > size:
                break
            length, _, time_ns = _unpack_head(data, position)
            stop = body + length
            if stop > size:
                break
            found.append((seq, time_ns, data[body:stop]))
            position = (stop + 7) & ~7
        return iter(found)


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that will never be delivered: `count` from `first_seq` on, and why."""

    lane: int
    first_seq: int
    count: int
    cause: str


def pack_chunk(lane: int, page_no: int, first_seq: int, first_ns: int, payloads: list[bytes]) -> Chunk:
    """Payloads as a chunk, as if they had been read from a page, one nanosecond after the other."""
    parts: list[bytes] = []
    for index, payload in enumerate(payloads):
        length, time_ns = len(payload), first_ns + index
        crc = crc32(_pack_seal(time_ns, length, first_seq + index, page_no), crc32(payload))
        parts += (_pack_head(length, crc, time_ns), payload, bytes(-length & 7))
    return Chunk(lane, page_no, first_seq, len(payloads), b"".join(parts))


def page_records(data: bytes, first_seq: int, count: int, page_no: int) -> tuple[list[tuple[int, int, int, int]], int]:
    """Validate the bytes of `count` records.

    Returns the sound runs as `(first_seq, count, start, stop)` and how many of `count` are in none of them. A record
    with a wrong checksum but a possible length is stepped over; an impossible length ends the walk.
    """
    size = len(data)
    runs: list[tuple[int, int, int, int]] = []
    position = start = sound = 0
    run_first = seq = first_seq
    # A damaged header may count beyond what a checksum can be made for.
    stop_seq = max(first_seq, min(first_seq + count, MASK + 1))
    for seq in range(first_seq, stop_seq):
        body = position + RECORD_HEAD_BYTES
        if body > size:
            break
        length, crc, time_ns = _unpack_head(data, position)
        stop = body + length
        if stop > size:
            break
        following = (stop + 7) & ~7
        if crc32(_pack_seal(time_ns, length, seq, page_no), crc32(data[body:stop])) != crc:
            if seq > run_first:
                runs.append((run_first, seq - run_first, start, position))
            run_first, start = seq + 1, following
        else:
            sound += 1
        position = following
    else:
        seq = stop_seq
    if seq > run_first:
        runs.append((run_first, seq - run_first, start, position))
    return runs, count - sound


def offset_of_record(data: bytes, index: int) -> int:
    """Where record number `index`, from 0, begins; the end of `data` where a length before it is impossible."""
    position = 0
    for _ in range(min(index, len(data) // RECORD_HEAD_BYTES)):
        if position + RECORD_HEAD_BYTES > len(data):
            break
        position = (position + RECORD_HEAD_BYTES + _unpack_head(data, position)[0] + 7) & ~7
    return min(position, len(data))
