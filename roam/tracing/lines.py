r"""What a peer prints, as records of the lane `stdio`: made by its host, line by line, and in no segment.

A line is an `Event` of level INFO. Its target is the name of its stream, `stdout` or `stderr`, and its message the line
without its end; bytes that are not UTF-8 stand as `\xNN`. Its time is that at which the host has read it, so what a cell
emits in between can be earlier than what it printed before. Nobody knows the thread that printed it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from ..shm.chunk import Chunk, Gap, pack_chunk
from .codec import encode_line
from .filter import Filter
from .lanes import STDIO
from .records import INFO, PRINTED
from .scope import Scope
from .statistics import LaneStatistics

__all__ = ["CUT_CAUSE", "Lines"]

CUT_CAUSE = "stdio_cut"
"""Why lines are lost: there was more text than a host keeps until it has read it."""

_CHUNK_BYTES = 32 << 10
_OVERHEAD_BYTES = 96
"""What a record has beside its text."""
_LEAST_BYTES = 16
_MOST_BYTES = 4
"""Of a character, and of the escape of a byte that belongs to none."""
_OUTSIDE = Scope(bytes(8), bytes(16))


class Lines:
    """The lane `stdio` of one peer: makes its records, and counts them.

    A text of more than `record_bytes` is cut into several records. `cause` are the trace id and the span id in which the
    peer was started, zeros for none. `is_printed` says that this process's terminal shows the lines as well. Threads:
    one makes records; what counts them runs under the lock of their link.
    """

    def __init__(self, record_bytes: int, cause: bytes, *, is_printed: bool) -> None:
        self._limit = max(record_bytes - _OVERHEAD_BYTES, _LEAST_BYTES)
        self._ids = (cause[16:], cause[:16]) if any(cause) else (None, None)
        self._flags = PRINTED if is_printed else 0
        self._next_seq = 0
        self._page_no = 0
        self._last_ns = 0
        self._emitted = self._delivered = self._lost = 0

    @staticmethod
    def are_wanted(filter: Filter, stream: str) -> bool:
        """Whether the capture filter lets the lines of a stream through. No span is known around them."""
        return filter.admits(INFO, stream, _OUTSIDE)

    def make(self, stream: str, data: bytes, *, is_end: bool) -> tuple[list[Chunk], int]:
        """The lines in `data` as records, and how many bytes of it they are.

        A line that does not end there waits for its rest, unless `is_end` says that none will come; what is too long for
        a record is cut. Such a piece has the field `partial`.
        """
        whole = data.rfind(b"\n") + 1
        unfinished = self._pieces(data[whole:])
        waiting = b"" if is_end else unfinished.pop()
        chunks: list[Chunk] = []
        bodies: list[bytes] = []
        size_bytes = 0
        for text, is_partial in self._texts(data[:whole], unfinished):
            fields = {"stream": stream, "partial": True} if is_partial else {"stream": stream}
            body = encode_line(stream, text, fields, self._ids, self._flags)
            bodies.append(body)
            size_bytes += len(body)
            if size_bytes >= _CHUNK_BYTES:
                chunks.append(self._chunk(bodies))
                bodies, size_bytes = [], 0
        if bodies:
            chunks.append(self._chunk(bodies))
        return chunks, len(data) - len(waiting)

    def _texts(self, whole: bytes, unfinished: list[bytes]) -> Iterator[tuple[str, bool]]:
        """Texts of lines, and whether the line goes on after them."""
        try:
            lines = whole.decode().split("\n")[:-1]
        except UnicodeDecodeError:
            lines = []
        # A character has up to four bytes: shorter lines than that fit for sure.
        if lines and max(map(len, lines)) <= self._limit // _MOST_BYTES:
            for line in lines:
                yield line.removesuffix("\r"), False
        else:
            for raw in whole.split(b"\n")[:-1]:
                *pieces, last = self._pieces(raw)
                yield from ((_text(piece), True) for piece in pieces)
                yield _text(last).removesuffix("\r"), False
        yield from ((_text(piece), True) for piece in unfinished if piece)

    def _pieces(self, line: bytes) -> list[bytes]:
        """A line in parts that fit into a record, cut between characters; the last may be empty."""
        limit = self._limit
        if len(line) <= limit // _MOST_BYTES:
            return [line]
        if len(_text(line).encode()) > len(line):
            limit //= _MOST_BYTES
        pieces = []
        at = 0
        while len(line) - at > limit:
            # Before the next byte that begins a character; where none of four does, no character is there.
            for until in range(at + limit, at + limit - _MOST_BYTES, -1):
                if line[until] & 0xC0 != 0x80:
                    break
            else:
                until = at + limit
            pieces.append(line[at:until])
            at = until
        return [*pieces, line[at:]]

    def lose(self, count: int) -> Gap:
        """The notice that `count` lines were given up here."""
        gap = Gap(STDIO, self._next_seq, count, CUT_CAUSE)
        self._next_seq += count
        return gap

    def _chunk(self, bodies: list[bytes]) -> Chunk:
        self._page_no += 1
        first_ns = max(time.monotonic_ns(), self._last_ns + 1)
        self._last_ns = first_ns + len(bodies) - 1
        chunk = pack_chunk(STDIO, self._page_no, self._next_seq, first_ns, bodies)
        self._next_seq += len(bodies)
        return chunk

    def count(self, items: Iterable[Chunk | Gap]) -> None:
        """These have reached the link."""
        for item in items:
            self._emitted = item.first_seq + item.count
            if isinstance(item, Chunk):
                self._delivered += item.count
            else:
                self._lost += item.count

    @property
    def statistics(self) -> LaneStatistics:
        """The numbers of the lane. Nothing is ever resident: a line has no record before it is delivered."""
        return LaneStatistics(emitted=self._emitted, delivered=self._delivered, lost=self._lost, resident=0)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
