"""What a dead cell had noted of its own end: `os._exit`, `os.exec*`, `sys.exit`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from ..errors import RecordError
from ..shm.chunk import Chunk
from ..shm.layout import LANES, LIFE
from ..tracing.codec import decode
from ..tracing.last_words import EXEC, OS_EXIT, SYS_EXIT
from ..tracing.peer import Remains, decode_chunks
from ..tracing.records import Event

__all__ = ["LastWord", "read"]

_MOST_CHUNKS = 64
_MOST_CANDIDATES = 8
_MOST_LATER = 1000
"""Records of other threads between the word and its deed; more refute it."""
_MOST_CHARACTERS = 1024


class LastWord(NamedTuple):
    """An end that a cell had noted before it came. All of it is the cell's own word."""

    kind: str
    """`os._exit`, `exec` or `sys.exit`."""
    where: str
    """`file:line in function` of the call; empty where that is roam's own code or was not told."""
    code: int | None
    """The exit code that was to follow; None for `exec`, after which any may come."""
    program: str
    """The program that took the cell's place; empty for the others."""


def read(remains: Remains) -> LastWord | None:
    """The last word of a cell, or None where it left none that holds. Any thread; never raises.

    After `os._exit` and a successful exec a thread writes nothing more, so a later record of the same thread refutes
    them. Whether the exit status agrees is for the caller to see.
    """
    # r[impl spawn.last-words]
    life = sorted((chunk for chunk in remains.chunks if chunk.lane == LIFE), key=_first_seq)
    records = reversed(decode_chunks(life[-_MOST_CHUNKS:], (), remains.anchor))
    found = [
        record
        for record in records
        if isinstance(record, Event) and record.target == "roam.cell" and record.message in (EXEC, OS_EXIT, SYS_EXIT)
    ]
    return next((_word(record) for record in found[:_MOST_CANDIDATES] if _holds(record, remains)), None)


def _holds(record: Event, remains: Remains) -> bool:
    if record.message == SYS_EXIT:
        return True  # exit handlers and other threads come after it
    threads = list(islice(_threads_after(record.time_ns, remains), _MOST_LATER))
    return record.thread not in threads and len(threads) < _MOST_LATER


def _threads_after(time_ns: int, remains: Remains) -> Iterator[int | None]:
    """For each record later than `time_ns` the thread that wrote it."""
    passed: set[int] = set()
    # Of the lanes of its segment; what it printed has the time at which the host came to read it.
    written = [chunk for chunk in remains.chunks if chunk.lane < len(LANES)]
    for chunk in sorted(written, key=_first_seq, reverse=True):
        if chunk.lane in passed:
            continue
        later = [payload for _, monotonic_ns, payload in chunk if remains.anchor.to_wall_ns(monotonic_ns) > time_ns]
        if not later:
            passed.add(chunk.lane)  # the rest of it is older still
        for payload in later:
            try:
                yield decode(payload).thread
            except RecordError:
                yield None


def _first_seq(chunk: Chunk) -> int:
    return chunk.first_seq


def _word(record: Event) -> LastWord:
    where, code, program = (record.fields.get(name) for name in ("where", "code", "program"))
    return LastWord(
        record.message,
        where[:_MOST_CHARACTERS] if isinstance(where, str) else "",
        code if type(code) is int and 0 <= code <= 255 and record.message != EXEC else None,
        program[:_MOST_CHARACTERS] if isinstance(program, str) and record.message == EXEC else "",
    )
