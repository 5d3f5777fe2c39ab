"""What a reader saw, written down: played back, it makes the same reader do the same again, whatever the scheduler did."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable

__all__ = ["Tape", "TapeEnded", "pack", "unpack"]

Read = Callable[[int, int], bytes]


def pack(data: bytes) -> str:
    """Bytes as a JSON value."""
    return base64.b64encode(zlib.compress(data, 1)).decode()


def unpack(text: str) -> bytes:
    """The bytes of `pack`."""
    return zlib.decompress(base64.b64decode(text))


class TapeEnded(Exception):
    """The reader wants to know something else than it did when the tape was made: it is not the same reader."""


class Tape:
    """Stands between a reader and its segment. Records, or plays back what was recorded."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self.reads: list[tuple[int, int, bytes]] = []

    def __call__(self, offset: int, size: int) -> bytes:
        data = self._read(offset, size)
        self.reads.append((offset, size, data))
        return data

    def to_json(self) -> list[list[object]]:
        """The reads as JSON values."""
        return [[offset, size, pack(data)] for offset, size, data in self.reads]

    @staticmethod
    def playing(reads: list[list[object]]) -> Read:
        """A `read` that gives what stands on the tape. Raises `TapeEnded` when asked for something else."""
        left = iter(reads)

        def read(offset: int, size: int) -> bytes:
            for at, length, text in left:
                if (at, length) != (offset, size):
                    break
                return unpack(str(text))
            raise TapeEnded(f"{size} bytes at {offset}")

        return read
