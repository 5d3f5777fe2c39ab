"""The host's side of the hand-rolled anchor: read a pipe, cut it into frames, decode each."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from .loops import WireEvent

__all__ = ["read_events"]

READ_BYTES = 1 << 18


def read_events(fd: int) -> Iterator[WireEvent]:
    """Events until the other end closes."""
    decode = msgspec.msgpack.Decoder(WireEvent).decode
    rest = b""
    while block := os.read(fd, READ_BYTES):
        data = rest + block
        view, offset, end = memoryview(data), 0, len(data)
        while offset + 4 <= end:
            stop = offset + 4 + int.from_bytes(view[offset : offset + 4], "little")
            if stop > end:
                break
            yield decode(view[offset + 4 : stop])
            offset = stop
        rest = data[offset:]
