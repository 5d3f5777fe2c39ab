"""Hostile msgpack: values of every type and size, bombs, claims that nothing follows, and real bodies mutated."""

from __future__ import annotations

import functools
import random
import struct

from roam.stage import ExceptionText
from roam.tracing.codec import (
    encode_dropped,
    encode_event,
    encode_span_close,
    encode_span_enter,
    encode_span_exit,
)

__all__ = ["bodies", "bomb", "forged_body", "mutated", "token", "value"]

_SPAN, _TRACE = b"spanspan", b"tracetracetrace!"

_TEXTS = (
    b"", b"x", b"kind", b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe2\x80", b"\x1b[2J", b"\x00",
    b"a\nb\r", "\u202e\u2028\ufeff".encode(), b"m" * 300,
)  # fmt: skip
_LENGTHS = (0, 1, 2, 15, 31, 255, 256, 1024, 1025, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
_NUMBERS = (
    b"\xcc\xff", b"\xcd\xff\xff", b"\xce\xff\xff\xff\xff", b"\xcf" + b"\xff" * 8, b"\xcf\x80" + bytes(7), b"\xd0\x80",
    b"\xd1\x80\x00", b"\xd2\x80\x00\x00\x00", b"\xd3\x80" + bytes(7), b"\xd3" + b"\xff" * 8, b"\xca\x7f\xc0\x00\x00",
    b"\xcb\x7f\xf0" + bytes(6), b"\xcb\xff\xf8" + bytes(6), b"\xca\x3f\x80\x00\x00", b"\xc0", b"\xc2", b"\xc3", b"\x00",
    b"\x7f", b"\xe0", b"\xff", b"\xc1",
)  # fmt: skip
_HEADS = (
    (0xD9, "B"), (0xDA, "H"), (0xDB, "I"), (0xC4, "B"), (0xC5, "H"), (0xC6, "I"), (0xDC, "H"), (0xDD, "I"), (0xDE, "H"),
    (0xDF, "I"), (0xC7, "B"), (0xC8, "H"), (0xC9, "I"),
)  # fmt: skip


@functools.cache
def bodies() -> tuple[bytes, ...]:
    """Records as the shipped encoder writes them, of every kind."""
    fields = {"n": 1, "text": "grüße", "raw": b"\0\xff", "x": [1, 2.5, None, {"deep": [True, "y"]}], "big": 2**64 - 1}
    error = ExceptionText("ValueError", "bad", "Traceback (most recent call last):\nValueError: bad\n")
    made = (
        encode_event(20, "app.db", "a message", fields, 7, _SPAN, _TRACE),
        encode_event(20, "app", "short", {}, 7, _SPAN, _TRACE),
        encode_event(40, "app", "bad", {"n": 1}, 2**63, _SPAN, _TRACE, error, flags=3),
        encode_event(30, "app", "cut" * 2000, {"long": "x" * 5000}, 7, _SPAN, _TRACE, limit_bytes=1024),
        encode_span_enter(20, "app", "job", fields, 7, _SPAN, _TRACE, b"parentid"),
        encode_span_exit(20, "app", "job", 7, _SPAN, _TRACE, b"parentid"),
        encode_span_close(20, "app", "job", fields, 7, _SPAN, _TRACE, b"parentid", 10**9, error),
        encode_dropped({"newest": 3, "oversize": 2**40}),
    )
    return tuple(body for body in made if body is not None)


def token(source: random.Random) -> bytes:
    """The beginning of a value, or a whole one: nothing says that what it announces will come."""
    choice = source.randrange(6)
    if choice == 0:
        return source.choice(_NUMBERS)
    if choice == 1:
        code, size = source.choice(_HEADS)
        return bytes([code]) + struct.pack(">" + size, source.choice(_LENGTHS) & ((1 << 8 * struct.calcsize(size)) - 1))
    if choice == 2:
        text = source.choice(_TEXTS)
        return _text(text) if source.random() < 0.7 else b"\xc5" + struct.pack(">H", len(text)) + text
    if choice == 3:
        # Extensions, and the timestamp among them, of every length.
        length = source.choice((1, 2, 4, 8, 12, 16))
        code = {1: b"\xd4", 2: b"\xd5", 4: b"\xd6", 8: b"\xd7", 16: b"\xd8"}.get(length, b"\xc7" + bytes([length]))
        return code + source.choice((b"\xff", b"\x00", b"\x7f")) + source.randbytes(length)
    if choice == 4:
        return bytes([source.choice((0x80, 0x90)) + source.randrange(16)])
    return source.randbytes(source.randrange(1, 9))


def _text(data: bytes) -> bytes:
    return (bytes([0xA0 + len(data)]) if len(data) < 32 else b"\xda" + struct.pack(">H", len(data))) + data


def value(source: random.Random, depth: int = 0) -> bytes:
    """One value, whole in its outer form, of any type; containers hold more of them."""
    choice = source.randrange(8 if depth < 4 else 5)
    if choice < 3:
        return source.choice(_NUMBERS)
    if choice < 5:
        return _text(source.choice(_TEXTS))
    if choice == 5:
        return token(source)
    count = source.choice((0, 1, 2, 3, 15))
    if choice == 6:
        return bytes([0x90 + count]) + b"".join(value(source, depth + 1) for _ in range(count))
    items = (_text(source.choice(_TEXTS)) + value(source, depth + 1) for _ in range(count))
    return bytes([0x80 + count]) + b"".join(items)


def bomb(source: random.Random, most: int) -> bytes:
    """Up to `most` bytes that would be many objects, many levels, or a huge one, if they were believed."""
    count = source.choice((10, 17, 100, 1025, 5000, most))
    choice = source.randrange(7)
    if choice == 0:
        return (source.choice((b"\x91", b"\x81\xa0", b"\x81\xa1k", b"\x92\x00")) * count)[:most]
    if choice == 1:
        head = source.choice((b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9")) + struct.pack(">I", source.choice(_LENGTHS))
        return (head * min(count, 1100))[:most]
    if choice == 2:
        # As many as it says, and each as small as can be.
        return (b"\xdd" + struct.pack(">I", count) + source.choice((b"\x90", b"\x80", b"\x00", b"\xc0")) * count)[:most]
    if choice == 3:
        return b"".join(
            [b"\xde" + struct.pack(">H", count & 0xFFFF), *(_text(b"%d" % n) + b"\x00" for n in range(count))]
        )[:most]
    if choice == 4:
        return (b"\xdc" + struct.pack(">H", min(count, 0xFFFF)) + "\xa4é€".encode("latin-1", "replace") * count)[:most]
    if choice == 5:
        return (b"\xdc\x04\x00" * 200 + b"\x90" * count)[:most]
    return _text(b"\xff" * min(count, 60_000))[:most]


def forged_body(source: random.Random, most: int = 1 << 16) -> bytes:
    """An array that begins like a record, each item either as it should be or anything at all."""
    tag = source.choice((0, 0, 0, 1, 2, 3, 4, 5, 6, 127))
    fields = b"\x81\xa1k" + (bomb(source, most) if source.random() < 0.3 else value(source))
    items = [
        bytes([tag]), b"\x14", b"\xa3app", b"\xa1m", fields, b"\x07", b"\xc4\x08" + _SPAN, b"\xc4\x10" + _TRACE, b"\xc0",
        b"\x00", b"\x80",
    ]  # fmt: skip
    if tag == 4:
        items = [b"\x04", b"\x81\xa6newest" + source.choice(_NUMBERS)]
    for _ in range(source.choice((0, 0, 1, 1, 2))):
        items[source.randrange(1, len(items))] = value(source)
    del items[source.choice((8, 8, 8, 9, 10, 11, 5)) :]
    count = len(items) if source.random() < 0.9 else source.randrange(16)
    return (bytes([0x90 + count]) + b"".join(items))[:most]


def mutated(source: random.Random, body: bytes) -> bytes:
    """A body with some bytes flipped, inserted, missing, doubled, or from elsewhere."""
    data = bytearray(body)
    for _ in range(source.choice((1, 1, 2, 5))):
        at = source.randrange(len(data) + 1)
        choice = source.randrange(7)
        if choice == 0 and at < len(data):
            data[at] ^= 1 << source.randrange(8)
        elif choice == 1 and at < len(data):
            data[at] = source.choice((0xC1, 0xDD, 0xDF, 0xC7, 0xDB, 0xCF, 0xFF, 0x00, 0x80, 0x90))
        elif choice == 2:
            data[at:at] = token(source)
        elif choice == 3:
            data[at : at + source.randrange(1, 12)] = token(source)
        elif choice == 4:
            del data[at : at + source.choice((1, 2, 8, 64))]
        elif choice == 5:
            del data[at:]
        else:
            other = source.choice(bodies())
            data[at:] = other[source.randrange(len(other)) :]
    return bytes(data)
