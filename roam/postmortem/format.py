r"""A dump as bytes: how a post-mortem is laid out in its file.

All values are little-endian. A file is a head and sections, and nothing else::

    0    8s   magic       "roampm\r\n"
    8    u32  version     1
    12   u32  crc32       of version and nonce
    16   16s  nonce       random; begins every section of this file
    32   ...  sections

A section::

    0    16s  nonce       as in the head: no byte that a cell wrote can pass for the beginning of a section
    16   16s  name        ASCII, padded with zeros
    32   u64  length      of the body
    40   u32  body crc32
    44   u32  head crc32  of the 44 bytes before it
    48   ...  body

The sections, in the order in which they are written:

======  ==============================================================================================
meta    msgpack map: exit, peer, anchor, stage, statistics, config, facts, header, ... (`Meta`)
fault   what `faulthandler` wrote, as it was
stderr  the end of what it wrote to standard error, as it was
stdout  likewise to standard output; missing in older dumps
lost    msgpack array of `Lost` records
spans   msgpack array of `OpenSpan` maps
chunk   any number: `lane u32 | count u32 | page_no u64 | first_seq u64 | crc32 u32` of the four before it, then
        `count` ring records as they lay in the segment (`roam.shm.layout`), each with its own checksum; the lanes are
        those of `roam.tracing.lanes`, one after the other, 3 being what was printed in the same form; each with its
        newest first
late    msgpack array of `Lost` records, one for each chunk that there was no time for; only where there are any
meta    once more: it also marks the end
======  ==============================================================================================

So a damaged byte costs one section at most, in a chunk one record, and never `meta`. Every length is compared with the
bytes that are there before it is used. A reader skips names that it does not know.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import msgspec

from ..clock import ClockAnchor
from ..errors import DumpError
from ..exit import CellExit
from ..shm.reader import Chunk, page_records
from ..stage import Stage
from ..tracing.dissection import check_bounds
from ..tracing.lanes import LANES
from ..tracing.peer import OpenSpan, Remains
from ..tracing.records import Lost, Peer
from ..tracing.statistics import PeerStatistics
from .plain import plain

__all__ = ["MAGIC", "MOST_BYTES", "VERSION", "Decoded", "Meta", "decode", "encode"]

MAGIC = b"roampm\r\n"
VERSION = 1
MOST_BYTES = 256 << 20
"""No dump is larger; a larger file is not read."""

_HEAD = struct.Struct("<8s I I 16s")
_SECTION = struct.Struct("<16s 16s Q I I")
_CHUNK = struct.Struct("<I I Q Q I")
_CHUNK_BYTES = MOST_BYTES - (32 << 20)
_MOST_SECTIONS = 500_000
_MOST_CANDIDATES = 10_000
_REQUIRED = ("meta", "fault", "stderr", "lost", "spans")


class Meta(msgspec.Struct, kw_only=True):
    """The section that says whose remains these are. On disk a map with these names."""

    exit: CellExit
    peer: Peer
    anchor: ClockAnchor
    stage: Stage
    statistics: PeerStatistics
    config: str
    died_ns: int
    facts: dict[str, Any]
    header: dict[str, Any]
    segment_path: str
    result_length: int | None
    cpu_ns: int | None
    max_rss_bytes: int | None
    said_goodbye: bool
    damage: list[str]
    chunk_count: int
    last_beat_ns: int | None = None
    is_live: bool = False


_TYPES: dict[str, Any] = {"meta": Meta, "lost": list[Lost], "late": list[Lost], "spans": list[OpenSpan]}


@dataclass(slots=True)
class Decoded:
    """What a dump holds: the remains, how the cell ended, the process facts, and what of the file was damaged."""

    remains: Remains
    exit: CellExit
    facts: dict[str, Any]
    damage: list[str]


def encode(
    remains: Remains,
    exit: CellExit,
    facts: Mapping[str, object],
    time_left: Iterable[object] = itertools.repeat(True),
) -> Iterator[bytes]:
    """The bytes of a dump, piece by piece. Chunks beyond the size limit are left out, oldest first, and counted as lost.

    An item of `time_left` is taken for each chunk. When it ends, time is up: the chunks that are still to come, those
    of the last lanes and the oldest, are counted as lost, too, and the dump is finished.
    """
    chunks, left_out = _fitting(remains.chunks)
    meta = msgspec.msgpack.encode(
        plain(
            Meta(
                exit=exit,
                peer=remains.peer,
                anchor=remains.anchor,
                stage=remains.stage,
                statistics=remains.statistics,
                config=remains.config,
                died_ns=remains.died_ns,
                facts=dict(facts),
                header=remains.header,
                segment_path=str(remains.segment_path),
                result_length=remains.result_length,
                cpu_ns=remains.cpu_ns,
                max_rss_bytes=remains.max_rss_bytes,
                said_goodbye=remains.said_goodbye,
                damage=remains.damage,
                chunk_count=len(chunks),
                last_beat_ns=remains.last_beat_ns,
                is_live=remains.is_live,
            )
        )
    )
    lost = remains.lost + _lost(left_out, "dump_full", remains.died_ns)
    nonce = os.urandom(16)
    numbers = struct.pack("<I", VERSION)
    yield _HEAD.pack(MAGIC, VERSION, crc32(numbers + nonce), nonce)
    yield from _section(nonce, "meta", meta)
    yield from _section(nonce, "fault", remains.fault_text)
    yield from _section(nonce, "stderr", remains.stderr_tail)
    yield from _section(nonce, "stdout", remains.stdout_tail)
    yield from _section(nonce, "lost", msgspec.msgpack.encode(plain(lost)))
    yield from _section(nonce, "spans", msgspec.msgpack.encode(plain(remains.open_spans)))
    written = 0
    # r[impl dump.write.late] Looked at in the order of `_fitting`, so what is late is what is missed least.
    for chunk, _ in zip(chunks, time_left, strict=False):
        head = _CHUNK.pack(chunk.lane, chunk.count, chunk.page_no, chunk.first_seq, 0)[:-4]
        yield from _section(nonce, "chunk", head + struct.pack("<I", crc32(head)) + chunk.data)
        written += 1
    if written < len(chunks):
        late = _lost(chunks[written:], "dump_late", remains.died_ns)
        yield from _section(nonce, "late", msgspec.msgpack.encode(plain(late)))
    yield from _section(nonce, "meta", meta)


def _fitting(chunks: list[Chunk]) -> tuple[list[Chunk], list[Chunk]]:
    """The chunks that a dump can hold, and those it cannot; both by lanes, the less important ones later, and the newest first."""
    ordered = sorted(chunks, key=lambda chunk: (chunk.lane, -chunk.first_seq))
    room = itertools.accumulate((-len(chunk.data) for chunk in ordered), initial=_CHUNK_BYTES)
    count = sum(1 for left in itertools.islice(room, 1, None) if left >= 0)
    return ordered[:count], ordered[count:]


def _lost(chunks: list[Chunk], cause: str, time_ns: int) -> list[Lost]:
    return [Lost(LANES[chunk.lane], chunk.first_seq, chunk.count, cause, time_ns) for chunk in chunks]


def _section(nonce: bytes, name: str, body: bytes) -> Iterator[bytes]:
    head = _SECTION.pack(nonce, name.encode(), len(body), crc32(body), 0)[:-4]
    yield head + struct.pack("<I", crc32(head))
    yield body


@dataclass(slots=True)
class _Parts:
    """The sections read so far. Of those that a dump holds once, the first sound one counts."""

    values: dict[str, Any] = field(default_factory=dict)
    chunks: list[Chunk] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    last: str = ""


def decode(data: bytes, path: str) -> Decoded:
    """Read a dump, as much of it as is sound. Raises `DumpError` where nothing can be used; `path` is for its text."""
    # r[impl dump.load.tolerant]
    damage: list[str] = []
    nonce = _nonce(data, path, damage)
    parts = _Parts()
    for name, at, body, is_sound in _sections(data, nonce, damage):
        parts.seen[name] += 1
        parts.last = name
        _take(parts, name, at, body, is_sound, damage)
    meta: Meta | None = parts.values.get("meta")
    if meta is None:
        raise DumpError(path=path, why="nothing in it says whose post-mortem it is", remedy="It is damaged beyond use.")
    damage.extend(f"section {name} is missing" for name in _REQUIRED if name not in parts.seen)
    if parts.last != "meta" or parts.seen["meta"] < 2:
        damage.append("the end of the file is missing")
    late: list[Lost] = parts.values.get("late", [])
    if parts.seen["chunk"] + len(late) < meta.chunk_count:
        damage.append(f"of {meta.chunk_count} pages of records only {parts.seen['chunk']} were found")
    remains = Remains(
        peer=meta.peer,
        anchor=meta.anchor,
        chunks=parts.chunks,
        lost=parts.values.get("lost", []) + late,
        open_spans=parts.values.get("spans", []),
        statistics=meta.statistics,
        stage=meta.stage,
        config=meta.config,
        died_ns=meta.died_ns,
        fault_text=parts.values.get("fault", b""),
        stderr_tail=parts.values.get("stderr", b""),
        stdout_tail=parts.values.get("stdout", b""),
        header=meta.header,
        segment_path=meta.segment_path,
        result_length=meta.result_length,
        cpu_ns=meta.cpu_ns,
        max_rss_bytes=meta.max_rss_bytes,
        said_goodbye=meta.said_goodbye,
        last_beat_ns=meta.last_beat_ns,
        is_live=meta.is_live,
        damage=meta.damage,
    )
    return Decoded(remains, meta.exit, meta.facts, damage)


def _nonce(data: bytes, path: str, damage: list[str]) -> bytes:
    if not data.startswith(MAGIC):
        raise DumpError(path=path, why="it is not a post-mortem of roam")
    if len(data) < _HEAD.size + _SECTION.size:
        raise DumpError(
            path=path, why=f"it ends after {len(data)} bytes", remedy="It was cut off before anything useful."
        )
    _, version, crc, nonce = _HEAD.unpack_from(data)
    if crc32(data[8:12] + nonce) == crc:
        if version != VERSION:
            raise DumpError(
                path=path,
                why=f"it has format {version} and this roam reads {VERSION}",
                remedy="Use the roam that wrote it.",
            )
        return bytes(nonce)
    damage.append("the head of the file is damaged")
    # The first section repeats the nonce.
    return data[_HEAD.size : _HEAD.size + len(nonce)]


def _sections(data: bytes, nonce: bytes, damage: list[str]) -> Iterator[tuple[str, int, bytes, bool]]:
    """Every section with a sound head: name, offset, body (shorter than it should be where bytes are missing), and whether
    its checksum is right."""
    position, count = _HEAD.size, 0
    while position < len(data):
        count += 1
        found = _section_at(data, position, nonce)
        if found is None or count > _MOST_SECTIONS:
            following = _next_section(data, position, nonce) if count <= _MOST_SECTIONS else len(data)
            damage.append(f"{following - position} bytes at {position} are no section")
            position = following
            continue
        name, length, crc = found
        start = position + _SECTION.size
        stop = start + length
        # Slicing stops at the end of the data, whatever the length claims.
        body = data[start:stop]
        is_sound = crc32(body) == crc
        if not is_sound:
            # Where bytes of it are missing the next section begins before the length says.
            following = _next_section(data, position, nonce)
            if following < min(stop, len(data)):
                stop = following
                body = data[start:stop]
        yield name, position, body, is_sound
        if stop > len(data):
            damage.append(f"section {name} at {position} is cut off")
        position = stop


def _section_at(data: bytes, position: int, nonce: bytes) -> tuple[str, int, int] | None:
    if position + _SECTION.size > len(data):
        return None
    found, name, length, crc, head_crc = _SECTION.unpack_from(data, position)
    if found != nonce or crc32(data[position : position + _SECTION.size - 4]) != head_crc:
        return None
    return name.rstrip(b"\0").decode("ascii", "backslashreplace"), length, crc


def _next_section(data: bytes, position: int, nonce: bytes) -> int:
    for _ in range(_MOST_CANDIDATES):
        position = data.find(nonce, position + 1)
        if position < 0:
            break
        if _section_at(data, position, nonce) is not None:
            return position
    return len(data)


def _take(parts: _Parts, name: str, at: int, body: bytes, is_sound: bool, damage: list[str]) -> None:
    if name == "chunk":
        _take_chunk(parts, at, body, is_sound, damage)
    elif not is_sound:
        damage.append(f"section {name} at {at} is damaged")
    elif name in parts.values:
        return
    elif name in ("fault", "stderr", "stdout"):
        parts.values[name] = body
    elif name in _TYPES:
        try:
            value = msgspec.msgpack.decode(body, type=_TYPES[name])
            if name == "meta" and value.exit.exception is not None:
                check_bounds(value.exit.exception)
            parts.values[name] = value
        except Exception as error:
            # msgspec raises more than its own errors for bytes that nobody meant it to see.
            damage.append(f"section {name} at {at} does not decode: {error}")


def _take_chunk(parts: _Parts, at: int, body: bytes, is_sound: bool, damage: list[str]) -> None:
    """Keep the sound records of a chunk, also of a damaged one: they have checksums of their own."""
    if len(body) < _CHUNK.size:
        damage.append(f"section chunk at {at} is too short")
        return
    lane, count, page_no, first_seq, head_crc = _CHUNK.unpack_from(body)
    if crc32(body[: _CHUNK.size - 4]) != head_crc or lane >= len(LANES):
        damage.append(f"section chunk at {at} does not say what it holds")
        return
    data = body[_CHUNK.size :]
    runs, bad_count = page_records(data, first_seq, count, page_no)
    if bad_count or not is_sound:
        damage.append(f"section chunk at {at} is damaged: {bad_count} of its {count} records are lost")
    for seq, run_count, start, stop in runs:
        parts.chunks.append(Chunk(lane, page_no, seq, run_count, data[start:stop]))
