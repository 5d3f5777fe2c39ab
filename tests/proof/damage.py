"""Damage to a segment: bits, boundary values in the words that decide most, pages and pieces in the wrong place, holes.

None of it forges a checksum: what is moved stays a copy of something that the segment held.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from roam.shm.layout import (
    CONFIG_OFFSET,
    HEADER,
    HOST_OFFSET,
    MAILBOX_OFFSET,
    MAILBOX_SLOT_BYTES,
    PAGE_HEAD,
    PAGE_HEAD_BYTES,
    SPAN_BODY_BYTES,
    SPAN_SLOT_BYTES,
    STATUS_OFFSET,
    STATUS_WORDS,
)

from .images import Image

__all__ = ["BOUNDARIES", "CROSSING", "KINDS", "damage_page", "damage_segment"]

BOUNDARIES = (
    0, 1, 2, 7, 8, 16, 24, 255, 256, 1024, 4096, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62,
    2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1,
)  # fmt: skip
_NEAR = (-8, -2, -1, 1, 2, 8)

_U64 = struct.Struct("<Q")
_U32 = struct.Struct("<I")


def damage_segment(source: random.Random, image: Image, data: bytearray) -> tuple[list[str], int]:
    """Damage a copy of an image in one to three ways, anywhere. Returns the kinds and how many bytes are left."""
    kinds = source.choices(_NAMES, _WEIGHTS, k=source.choice((1, 1, 1, 2, 3)))
    for kind in kinds:
        KINDS[kind][1](source, image, data)
    length = len(data)
    if "truncated" in kinds:
        length = source.choice((source.randrange(length), source.randrange(HEADER.size, length), 0))
    return kinds, length


def damage_page(source: random.Random, image: Image, data: bytearray) -> int:
    """Damage one page of a copy of an image and nothing else. Returns the page's offset."""
    at = source.choice(image.slots)[1]
    if image.ends and source.random() < 0.4:
        at = source.choice(image.ends)
    size = image.geometry.config.page_bytes
    for _ in range(source.choice((1, 1, 2))):
        kind = source.randrange(6)
        if kind < 3:
            _change_head(source, image, data, at)
        elif kind == 3:
            for _ in range(source.randrange(1, 5)):
                data[at + source.randrange(size)] ^= 1 << source.randrange(8)
        elif kind == 4:
            start = source.randrange(size)
            stop = source.randrange(start, size) + 1
            data[at + start : at + stop] = (
                source.randbytes(stop - start) if source.random() < 0.5 else bytes(stop - start)
            )
        else:
            # What stands elsewhere in the same page, which keeps its checksums.
            length = source.randrange(8, size // 2) & ~7
            start, to = (source.randrange(0, size - length, 8) for _ in range(2))
            data[at + to : at + to + length] = data[at + start : at + start + length]
    return at


def _number(source: random.Random, old: int, most: int) -> int:
    near = old + source.choice((*_NEAR, source.randrange(-100, 100)))
    return source.choice((source.choice(BOUNDARIES), near, source.getrandbits(64))) & most


def _change_word(source: random.Random, data: bytearray, at: int) -> None:
    _U64.pack_into(data, at, _number(source, _U64.unpack_from(data, at)[0], 2**64 - 1))


def _change_half(source: random.Random, data: bytearray, at: int) -> None:
    _U32.pack_into(data, at, _number(source, _U32.unpack_from(data, at)[0], 2**32 - 1))


def _change_head(source: random.Random, image: Image, data: bytearray, at: int) -> None:
    """A page head: any of its numbers at a boundary, or all of them such that they could be true."""
    page_no, first_seq, commit = PAGE_HEAD.unpack_from(data, at)
    page_bytes = image.geometry.config.page_bytes
    choice = source.randrange(6)
    if choice == 0:
        page_no = _number(source, page_no, 2**64 - 1)
    elif choice == 1:
        first_seq = _number(source, first_seq, 2**64 - 1)
    elif choice == 2:
        commit = _number(source, commit, 2**64 - 1)
    elif choice == 3:
        count = _number(source, commit >> 32, 2**32 - 1)
        commit = count << 32 | (commit & 0xFFFFFFFF)
    elif choice == 4:
        commit = commit & ~0xFFFFFFFF | source.choice((_number(source, commit, 2**32 - 1), page_bytes, page_bytes + 8))
    else:
        # Another lap's page, which belongs into this place, with a sequence that is as likely.
        lane = max(lane for lane, offset in enumerate(image.geometry.lane_offsets) if offset <= at)
        laps = source.choice((1, 2, 2**20, 2**50))
        pages = image.geometry.lane_pages[lane]
        page_no = (page_no or (at - image.geometry.lane_offsets[lane]) // page_bytes + 1) + laps * pages
        first_seq += source.randrange(1, 1 + min(2**62, laps * pages * (page_bytes // 24)))
        count = source.randrange(page_bytes // 24)
        commit = count << 32 | source.randrange(PAGE_HEAD_BYTES, page_bytes + 1, 8)
    PAGE_HEAD.pack_into(data, at, page_no & (2**64 - 1), first_seq & (2**64 - 1), commit)


def _bits(source: random.Random, image: Image, data: bytearray) -> None:
    for _ in range(source.choice((1, 2, 8, 64))):
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)


def _page_heads(source: random.Random, image: Image, data: bytearray) -> None:
    for _ in range(source.choice((1, 1, 2, 8))):
        _change_head(source, image, data, source.choice(image.slots)[1])


def _record_heads(source: random.Random, image: Image, data: bytearray) -> None:
    for _ in range(source.choice((1, 2, 8)) if image.record_offsets else 0):
        _change_half(source, data, source.choice(image.record_offsets) + source.choice((0, 0, 4, 8, 12)))


def _segment_header(source: random.Random, image: Image, data: bytearray) -> None:
    _change_half(source, data, source.randrange(0, HEADER.size - 4, 4))


def _words(source: random.Random, image: Image, data: bytearray) -> None:
    for _ in range(source.choice((1, 2, 20))):
        starts = (HOST_OFFSET, CONFIG_OFFSET, STATUS_OFFSET, STATUS_OFFSET, STATUS_OFFSET)
        _change_word(source, data, source.choice(starts) + 8 * source.randrange(8))
    for _ in range(source.choice((0, 3))):
        _change_word(source, data, STATUS_OFFSET + 8 * source.randrange(STATUS_WORDS))


def _mailbox(source: random.Random, image: Image, data: bytearray) -> None:
    at = MAILBOX_OFFSET + source.randrange(2) * MAILBOX_SLOT_BYTES
    if source.random() < 0.5:
        _change_half(source, data, at + source.choice((0, 4, 8, 8, 12)))
    else:
        data[at + source.randrange(40)] ^= 1 << source.randrange(8)


def _span_table(source: random.Random, image: Image, data: bytearray) -> None:
    slots = image.geometry.config.span_slots
    at, other = (image.geometry.spans_offset + source.randrange(slots) * SPAN_SLOT_BYTES for _ in range(2))
    kind = source.randrange(4)
    if kind == 0:
        _change_word(source, data, at)
    elif kind == 1:
        _change_half(source, data, at + 16 + source.randrange(2) * SPAN_BODY_BYTES + source.choice((0, 4, 8)))
    elif kind == 2:
        data[at : at + SPAN_SLOT_BYTES] = data[other : other + SPAN_SLOT_BYTES]
    else:
        data[at + source.randrange(SPAN_SLOT_BYTES)] ^= 1 << source.randrange(8)


def _swapped_pages(source: random.Random, image: Image, data: bytearray) -> None:
    (_, here), (_, there) = source.choice(image.slots), source.choice(image.slots)
    size = image.geometry.config.page_bytes
    data[here : here + size], data[there : there + size] = data[there : there + size], data[here : here + size]


def _copied_page(source: random.Random, image: Image, data: bytearray) -> None:
    (_, here), (_, there) = source.choice(image.slots), source.choice(image.slots)
    size = image.geometry.config.page_bytes
    data[here : here + size] = data[there : there + size]


def _splice(source: random.Random, image: Image, data: bytearray) -> None:
    length = source.choice((8, 64, 500, 5000))
    # Aligned half of the time, so that whole words and records arrive.
    step = source.choice((1, 8))
    here, there = (source.randrange(0, len(data) - length, step) for _ in range(2))
    data[here : here + length] = data[there : there + length]


def _shifted(source: random.Random, image: Image, data: bytearray) -> None:
    """Bytes left out in the middle: all that follows moves up."""
    at, count = source.randrange(len(data)), source.choice((1, 8, 24, 64, 256, 4096))
    gone = data[at : at + count]
    del data[at : at + count]
    data.extend(bytes(len(gone)))


def _zeros(source: random.Random, image: Image, data: bytearray) -> None:
    at, length = source.randrange(len(data)), source.choice((8, 64, 1000, 20_000))
    stop = min(at + length, len(data))
    data[at:stop] = bytes(stop - at)


def _noise(source: random.Random, image: Image, data: bytearray) -> None:
    at, length = source.randrange(len(data)), source.choice((8, 64, 1000, 20_000))
    stop = min(at + length, len(data))
    data[at:stop] = source.randbytes(stop - at)


def _nothing(source: random.Random, image: Image, data: bytearray) -> None:
    """What is cut off is cut off last."""


KINDS: dict[str, tuple[int, Callable[[random.Random, Image, bytearray], None]]] = {
    "bits": (3, _bits),
    "page heads": (6, _page_heads),
    "record heads": (3, _record_heads),
    "segment header": (1, _segment_header),
    "words": (2, _words),
    "mailbox": (1, _mailbox),
    "span table": (2, _span_table),
    "swapped pages": (2, _swapped_pages),
    "copied page": (2, _copied_page),
    "splice": (2, _splice),
    "shifted": (1, _shifted),
    "zeros": (2, _zeros),
    "noise": (2, _noise),
    "truncated": (2, _nothing),
}
"""How often each is chosen, and what it does."""
CROSSING = {"swapped pages", "copied page", "splice", "shifted"}
"""What can put a page into the same place of another lane. A checksum binds a record to its sequence and page number,
not to its lane."""
_NAMES = tuple(KINDS)
_WEIGHTS = tuple(weight for weight, _ in KINDS.values())
