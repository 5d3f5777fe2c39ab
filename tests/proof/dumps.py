"""Dumps as roam writes them, where their parts lie, and damage to them, with and without forged checksums."""

from __future__ import annotations

import functools
import random
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from roam.exit import CellExit, ExitKind
from roam.postmortem import PostMortem, load, write
from roam.shm.layout import RECORD_HEAD, SEAL
from roam.stage import ExceptionText, Stage
from roam.tracing.offline import remains_of_segment
from tests.session import SESSION_DIRECTORY

from .damage import BOUNDARIES
from .images import images
from .wire import forged_body, mutated

__all__ = ["Dump", "Section", "damage_bytes", "damage_record", "damage_section", "dumps", "forge", "rearrange"]

_HEAD_BYTES = 32
_SECTION = struct.Struct("<16s 16s Q I I")
_CHUNK = struct.Struct("<I I Q Q I")
_RUDE = "\x1b]0;x\x07\r\n\u202e\x9b"
_KINDS = (
    ("1-KiB pages", "empty"),
    ("1-KiB pages", "begun"),
    ("4-KiB pages", "half full"),
    ("8832-byte pages", "lapped"),
)
_LEAVES = (
    0, -1, 1, 10**6, 2**31, 2**63 - 1, 2**64 - 1, -(2**63), 0.5, float("nan"), float("inf"), -1e308, "", "x", _RUDE, b"\x1b",
    None, True, [], {}, [[[[]]]], {"a": {"b": _RUDE}}, ["x" * 5000], "returned", "signaled", bytes(8), bytes(16),
)  # fmt: skip


@dataclass(frozen=True)
class Section:
    """Where a section lies in its dump; the body follows the head."""

    name: str
    start: int
    body: int
    stop: int


@dataclass(frozen=True)
class Dump:
    """A dump, and what it says when it is sound."""

    data: bytes
    post_mortem: PostMortem
    sections: tuple[Section, ...]

    def records_in(self, section: Section) -> list[tuple[int, int, int]]:
        """Sequence, start and end of every record in a chunk."""
        _, count, _, first_seq, _ = _CHUNK.unpack_from(self.data, section.body)
        begin = at = section.body + _CHUNK.size
        found = []
        for seq in range(first_seq, first_seq + count):
            stop = at + RECORD_HEAD.size + RECORD_HEAD.unpack_from(self.data, at)[0]
            found.append((seq, at, stop))
            at = begin + ((stop - begin + 7) & ~7)
        return found

    def lane_of(self, section: Section) -> int:
        """The lane that a chunk is of."""
        lane: int = _CHUNK.unpack_from(self.data, section.body)[0]
        return lane


@functools.cache
def dumps() -> tuple[Dump, ...]:
    """From one without a record to one of a lapped segment."""
    return tuple(_dump(*kind) for kind in _KINDS)


def _dump(shape: str, fill: str) -> Dump:
    with tempfile.TemporaryDirectory(dir=SESSION_DIRECTORY) as name:
        segment = Path(name) / "5-x.segment"
        segment.write_bytes(images()[shape, fill].data)
        segment.with_suffix(".stdout").write_bytes(b"some words \x1b[2J\xff\r\n" * 20)
        segment.with_suffix(".stderr").write_bytes(b"last words \x1b[2J\xff\r\n" * 20)
        segment.with_suffix(".fault").write_bytes(
            b"Fatal Python error: Segmentation fault\n\nCurrent thread 0x1 (most recent call first):\n"
            b'  File "/x\x1b.py", line 12 in boom\n'
        )
        remains = remains_of_segment(segment)
        exit = CellExit(
            kind=ExitKind.SIGNALED,
            signal=11,
            stage=Stage.RUN,
            exception=ExceptionText("ValueError", _RUDE, f"Traceback\n{_RUDE}\n"),
            started_ns=remains.anchor.wall_ns,
            ended_ns=remains.died_ns,
            cpu_s=1.5,
            verdict=f"crashed {_RUDE}",
            evidence=("signal 11", _RUDE),
        )
        path = write(remains, exit, {"rss_bytes": 10**7, "note": _RUDE, "cgroup": ["a", 1.5]}, Path(name))
        data = path.read_bytes()
        return Dump(data, load(path), tuple(_sections(data)))


def _sections(data: bytes) -> list[Section]:
    at, found = _HEAD_BYTES, []
    while at < len(data):
        _, name, length, _, _ = _SECTION.unpack_from(data, at)
        found.append(Section(name.rstrip(b"\0").decode(), at, at + _SECTION.size, at + _SECTION.size + length))
        at = found[-1].stop
    return found


def damage_bytes(source: random.Random, dump: Dump) -> bytes:
    """Damage anywhere: bits, holes, noise, bytes missing, doubled or added, an end that is missing."""
    data = bytearray(dump.data)
    for _ in range(source.choice((1, 1, 2, 6))):
        # Every second one at the beginning of a section, where the numbers are.
        near = source.choice(dump.sections).start + source.randrange(-40, 60)
        at = max(0, min(near if source.random() < 0.5 else source.randrange(len(data)), len(data) - 1))
        length = source.choice((1, 4, 8, 48, 500))
        choice = source.randrange(7)
        if choice < 2:
            data[at] ^= 1 << source.randrange(8)
        elif choice == 2:
            data[at : at + length] = bytes(len(data[at : at + length]))
        elif choice == 3:
            number = source.choice(BOUNDARIES) if source.random() < 0.7 else source.getrandbits(64)
            data[at : at + 8] = number.to_bytes(8, "little")[: len(data[at : at + 8])]
        elif choice == 4:
            del data[at : at + length]
        elif choice == 5:
            data[at:at] = data[source.randrange(len(data)) :][:length]
        else:
            del data[at:]
        if not data:
            break
    return bytes(data)


def damage_section(source: random.Random, dump: Dump) -> tuple[bytes, Section]:
    """Damage within one section, which keeps its length or not."""
    section = source.choice(dump.sections)
    data = bytearray(dump.data[section.start : section.stop])
    for _ in range(source.choice((1, 1, 3))):
        at, length = source.randrange(len(data)), source.choice((1, 8, 48, 500))
        choice = source.randrange(4)
        if choice < 2:
            data[at] ^= 1 << source.randrange(8)
        elif choice == 2:
            data[at : at + length] = source.randbytes(len(data[at : at + length]))
        elif len(data) > 2 * length:
            del data[at : at + length]
    return dump.data[: section.start] + data + dump.data[section.stop :], section


def damage_record(source: random.Random, dump: Dump) -> tuple[bytes, int, int] | None:
    """Damage in one record, but for its length, which says where the next one begins. Returns its lane and sequence,
    too; None where the dump has no records."""
    chunks = [section for section in dump.sections if section.name == "chunk"]
    if not chunks:
        return None
    section = source.choice(chunks)
    seq, start, stop = source.choice(dump.records_in(section))
    data = bytearray(dump.data)
    at = source.randrange(start + 4, stop)
    data[at] ^= 1 << source.randrange(8)
    return bytes(data), dump.lane_of(section), seq


def rearrange(source: random.Random, dump: Dump) -> bytes:
    """Sound sections that are missing, doubled, in another order, or of another dump."""
    other = source.choice(dumps())
    pieces = [dump.data[section.start : section.stop] for section in dump.sections]
    for _ in range(source.choice((1, 2, 5))):
        at = source.randrange(len(pieces) + 1)
        choice = source.randrange(4)
        if choice == 0:
            del pieces[at : at + source.randrange(1, 3)]
        elif choice == 1 and pieces:
            pieces.insert(at, source.choice(pieces))
        elif choice == 2:
            stranger = source.choice(other.sections)
            pieces.insert(at, other.data[stranger.start : stranger.stop])
        else:
            source.shuffle(pieces)
    return dump.data[:_HEAD_BYTES] + b"".join(pieces)


def forge(source: random.Random, dump: Dump) -> bytes:
    """Sections that somebody made by hand: of any content, and with the checksums that belong to it."""
    chosen = set(source.choices(dump.sections, k=source.choice((1, 2, 4))))
    if source.random() < 0.5:
        chosen |= {section for section in dump.sections if section.name == "meta"}
    pieces = [dump.data[:_HEAD_BYTES]]
    seed = source.random()
    for section in dump.sections:
        body = dump.data[section.body : section.stop]
        if section in chosen:
            # Both `meta` alike.
            its_source = random.Random(seed) if section.name == "meta" else source
            body = _FORGERS.get(section.name, mutated)(its_source, body)
        name = section.name if source.random() < 0.99 else source.choice(("nobody", _RUDE[:3], "chunk"))
        head = _SECTION.pack(dump.data[16:32], name.encode()[:16], len(body), crc32(body), 0)[:-4]
        pieces += [head, struct.pack("<I", crc32(head)), body]
    return b"".join(pieces)


def _forge_map(source: random.Random, body: bytes) -> bytes:
    if source.random() < 0.3:
        return mutated(source, body)
    whole = msgspec.msgpack.decode(body)
    for _ in range(source.choice((1, 1, 3))):
        whole = _with_changed_leaf(source, whole)
    return msgspec.msgpack.encode(whole)


def _with_changed_leaf(source: random.Random, whole: Any) -> Any:
    """`whole` with one value in it, chosen on the way down, replaced by any other."""
    if source.random() < 0.2 or not isinstance(whole, dict | list) or not whole:
        return source.choice(_LEAVES)
    if isinstance(whole, dict):
        key = source.choice(sorted(whole))
        return {**whole, key: _with_changed_leaf(source, whole[key])}
    at = source.randrange(len(whole))
    return [*whole[:at], _with_changed_leaf(source, whole[at]), *whole[at + 1 :]]


def _forge_chunk(source: random.Random, body: bytes) -> bytes:
    """Records of any content with checksums that fit, under a head of any content."""
    if source.random() < 0.2:
        return mutated(source, body)
    page_no, first_seq = (source.choice((1, 7, 2**40, 2**64 - 2, 2**64 - 1)) for _ in range(2))
    lane, count = source.choice((0, 1, 2, 2, 3, 2**32 - 1)), source.randrange(1, 8)
    records = bytearray()
    for number in range(count):
        payload = forged_body(source, 2000)
        time_ns, seq = source.choice((0, 51_000_000_000, 2**63, 2**64 - 1)), (first_seq + number) & (2**64 - 1)
        crc = crc32(SEAL.pack(time_ns, len(payload), seq, page_no), crc32(payload))
        records += RECORD_HEAD.pack(len(payload), crc, time_ns) + payload + bytes(-len(payload) % 8)
    if source.random() < 0.2:
        count = source.choice((0, 2**31, 2**32 - 1))
    head = _CHUNK.pack(lane, count, page_no, first_seq, 0)[:-4]
    return head + struct.pack("<I", crc32(head)) + records


_FORGERS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "meta": _forge_map,
    "lost": _forge_map,
    "spans": _forge_map,
    "chunk": _forge_chunk,
}
