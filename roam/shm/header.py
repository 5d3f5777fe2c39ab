"""The header of a segment: whose it is and what shape it has, written once by the host."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple
from zlib import crc32

from ..clock import ClockAnchor
from ..errors import SegmentCorrupt, SegmentVersionMismatch
from .layout import (
    ABI_VERSION,
    HEADER,
    HEADER_BYTES,
    MAGIC,
    MAILBOX_SLOT_BYTES,
    SPAN_SLOT_BYTES,
    Geometry,
    SegmentConfig,
)

__all__ = ["NO_CAUSE", "Identity", "pack_header", "read_header"]

_CRC_OFFSET = HEADER.size - 4


NO_CAUSE = bytes(24)


class Identity(NamedTuple):
    """Who a segment belongs to, as its header says. `nonce` is 16 random bytes."""

    peer_id: int
    epoch: int
    name: str
    nonce: bytes
    host_pid: int
    host_start_ticks: int
    boot_id: bytes
    anchor: ClockAnchor
    roam_version: str
    python_version: str
    cause: bytes = NO_CAUSE
    """Trace id (16 bytes) and span id (8) of what the process is a part of; zeros where it is its own beginning."""


def pack_header(geometry: Geometry, identity: Identity) -> bytes:
    """The bytes of a header, magic and checksum included."""
    config = geometry.config
    body = HEADER.pack(
        MAGIC,
        ABI_VERSION,
        HEADER_BYTES,
        geometry.total_bytes,
        config.page_bytes,
        config.life_pages,
        config.vital_pages,
        config.bulk_pages,
        config.record_bytes,
        config.span_slots,
        SPAN_SLOT_BYTES,
        MAILBOX_SLOT_BYTES,
        identity.peer_id,
        identity.epoch,
        identity.nonce,
        identity.host_pid,
        identity.host_start_ticks,
        identity.anchor.wall_ns,
        identity.anchor.monotonic_ns,
        identity.boot_id,
        _fit(identity.name, 128),
        _fit(identity.roam_version, 32),
        _fit(identity.python_version, 32),
        identity.cause[:16],
        identity.cause[16:],
        0,
    )
    return body[:_CRC_OFFSET] + crc32(body[len(MAGIC) : _CRC_OFFSET]).to_bytes(4, "little")


def _fit(text: str, size: int) -> bytes:
    """UTF-8 of at most `size` bytes, cut between characters."""
    return text.encode("utf-8", "backslashreplace")[:size].decode("utf-8", "ignore").encode()


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("utf-8", "replace")


def read_header(fd: int, path: str) -> tuple[SegmentConfig, Identity]:
    """Read and check the header of a segment; `path` is for the errors.

    Raises `SegmentCorrupt` or `SegmentVersionMismatch`.
    """
    if sys.byteorder != "little":
        raise SegmentCorrupt(path=path, offset=0, why="segments are little-endian and this machine is not")
    raw = os.pread(fd, HEADER.size, 0)
    if len(raw) < HEADER.size:
        raise SegmentCorrupt(path=path, offset=len(raw), why="the file ends inside the header")
    fields = HEADER.unpack(raw)
    if fields[0] != MAGIC:
        raise SegmentCorrupt(path=path, offset=0, why="it does not begin with the magic")
    if fields[1] != ABI_VERSION:
        raise SegmentVersionMismatch(path=path, found=fields[1], wanted=ABI_VERSION)
    if fields[-1] != crc32(raw[len(MAGIC) : _CRC_OFFSET]):
        raise SegmentCorrupt(path=path, offset=_CRC_OFFSET, why="the header's checksum does not match")
    try:
        config = SegmentConfig(
            page_bytes=fields[4],
            life_pages=fields[5],
            vital_pages=fields[6],
            bulk_pages=fields[7],
            record_bytes=fields[8],
            span_slots=fields[9],
        )
    except ValueError as error:
        raise SegmentCorrupt(path=path, offset=24, why=str(error)) from error
    total_bytes = Geometry(config).total_bytes
    if fields[2:4] != (HEADER_BYTES, total_bytes) or fields[10:12] != (SPAN_SLOT_BYTES, MAILBOX_SLOT_BYTES):
        raise SegmentCorrupt(path=path, offset=8, why="the sizes in the header contradict each other")
    if os.fstat(fd).st_size < total_bytes:
        raise SegmentCorrupt(path=path, offset=os.fstat(fd).st_size, why="the file is shorter than its header says")
    identity = Identity(
        peer_id=fields[12],
        epoch=fields[13],
        nonce=fields[14],
        host_pid=fields[15],
        host_start_ticks=fields[16],
        anchor=ClockAnchor(fields[17], fields[18]),
        boot_id=fields[19],
        name=_text(fields[20]),
        roam_version=_text(fields[21]),
        python_version=_text(fields[22]),
        cause=fields[23] + fields[24],
    )
    return config, identity
