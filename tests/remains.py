"""Remains of cells that never lived, made with the real ring and the real codec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

from roam.clock import ClockAnchor
from roam.exit import CellExit, ExitKind
from roam.shm.layout import BULK, LANES, LIFE, VITAL
from roam.shm.reader import Chunk, RingReader
from roam.shm.ring import RingWriter
from roam.shm.words import words_of
from roam.stage import ExceptionText, Stage
from roam.tracing.codec import encode_event, encode_span_close, encode_span_enter, encode_span_exit
from roam.tracing.peer import OpenSpan, Remains
from roam.tracing.records import Lost, Peer
from roam.tracing.statistics import LaneStatistics, PeerStatistics

__all__ = [
    "ANCHOR",
    "FAULT_TEXT",
    "SECOND",
    "TRACE_ID",
    "WALL_NS",
    "enter",
    "event",
    "leave",
    "make_exit",
    "make_remains",
    "make_span",
    "span_id",
]

SECOND = 1_000_000_000
WALL_NS = 1_738_324_800 * SECOND  # 2025-01-31 12:00:00 UTC
ANCHOR = ClockAnchor(WALL_NS, 50 * SECOND)
TRACE_ID = bytes(range(16))
PAGE_BYTES = 32 * 1024

FAULT_TEXT = b"""Fatal Python error: Segmentation fault

Thread 0x00007f0000000001 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 1002 in _bootstrap

Current thread 0x00007f0000000002 (most recent call first):
  File "/home/user/crash \\xe9.py", line 12 in boom
  File "/home/user/crash.py", line 20 in <module>

Extension modules: msgspec._core (total: 1)
"""


def span_id(number: int) -> bytes:
    return number.to_bytes(8, "big")


def event(level: int, message: object, fields: dict[str, Any] | None = None, **rest: Any) -> tuple[int, bytes]:
    """Lane and body of an event."""
    lane = rest.get("lane", VITAL if level >= 30 else BULK)
    exception: ExceptionText | None = rest.get("exception")
    body = encode_event(
        level,
        rest.get("target", "app"),
        message,
        fields or {},
        rest.get("thread", 1),
        span_id(rest.get("span", 0)),
        TRACE_ID,
        exception,
        limit_bytes=8192,
    )
    assert body is not None
    return (LIFE if exception is not None else lane), body


def enter(number: int, name: str, parent: int = 0, thread: int = 1) -> tuple[int, bytes]:
    """Lane and body of a span's beginning."""
    body = encode_span_enter(
        20, "app", name, {"n": number}, thread, span_id(number), TRACE_ID, span_id(parent), limit_bytes=8192
    )
    assert body is not None
    return BULK, body


def leave(number: int, name: str, *, is_closed: bool = True) -> tuple[int, bytes]:
    """Lane and body of a span's end, or of a generator's pause."""
    if is_closed:
        body = encode_span_close(
            20, "app", name, {}, 1, span_id(number), TRACE_ID, span_id(0), 312_400_000, limit_bytes=8192
        )
    else:
        body = encode_span_exit(20, "app", name, 1, span_id(number), TRACE_ID, span_id(0), limit_bytes=8192)
    assert body is not None
    return BULK, body


def make_span(number: int, name: str, parent: int | None = None, **rest: Any) -> OpenSpan:
    """An open span that is `age_ns` old."""
    age_ns = rest.pop("age_ns", (10 - number) * SECOND)
    return OpenSpan(
        span_id=span_id(number),
        parent_id=None if parent is None else span_id(parent),
        trace_id=TRACE_ID,
        name=name,
        target=rest.pop("target", "app"),
        fields=rest.pop("fields", {}),
        thread=rest.pop("thread", 1),
        started_ns=WALL_NS + 10 * SECOND - age_ns,
        age_ns=age_ns,
        **rest,
    )


def chunks_of(bodies: Sequence[tuple[int, bytes]]) -> list[Chunk]:
    """The chunks a host would have copied after these bodies were written, one per millisecond."""
    pages = 64
    memory = memoryview(bytearray(len(LANES) * pages * PAGE_BYTES))
    words = words_of(memory)
    found: list[Chunk] = []
    for lane in range(len(LANES)):
        offset = lane * pages * PAGE_BYTES
        writer = RingWriter(memory, words, offset=offset, page_bytes=PAGE_BYTES, page_count=pages)
        for index, (its_lane, body) in enumerate(bodies):
            if its_lane == lane:
                assert writer.append(body, crc32(body), ANCHOR.monotonic_ns + 1_000_000 * (index + 1))
        reader = RingReader(
            lambda at, size: bytes(memory[at : at + size]),
            lane=lane,
            offset=offset,
            page_bytes=PAGE_BYTES,
            page_count=pages,
        )
        polled = reader.poll(final=True)
        assert all(isinstance(item, Chunk) for item in polled)
        found += [item for item in polled if isinstance(item, Chunk)]
    return found


def make_remains(bodies: Sequence[tuple[int, bytes]] = (), **rest: Any) -> Remains:
    """What a host would hand to the owner of a dead peer."""
    chunks = rest.pop("chunks", None)
    if chunks is None:
        chunks = chunks_of(bodies)
    lost: list[Lost] = rest.pop("lost", [])
    lanes = {
        name: LaneStatistics(
            emitted=sum(chunk.count for chunk in chunks if chunk.lane == lane)
            + sum(item.count for item in lost if item.lane == name),
            delivered=sum(chunk.count for chunk in chunks if chunk.lane == lane),
            lost=sum(item.count for item in lost if item.lane == name),
            resident=0,
        )
        for lane, name in enumerate(LANES)
    }
    return Remains(
        peer=rest.pop("peer", Peer(3, 1, rest.pop("name", "parser"), rest.pop("pid", 1234))),
        anchor=ANCHOR,
        chunks=chunks,
        lost=lost,
        open_spans=rest.pop("open_spans", []),
        statistics=rest.pop("statistics", PeerStatistics(lanes=lanes)),
        stage=rest.pop("stage", Stage.RUN),
        config=rest.pop("config", "info,app.db=debug"),
        died_ns=rest.pop("died_ns", WALL_NS + 10 * SECOND),
        fault_text=rest.pop("fault_text", b""),
        stdout_tail=rest.pop("stdout_tail", b""),
        stderr_tail=rest.pop("stderr_tail", b""),
        header=rest.pop("header", {"host_pid": 77, "python_version": "3.11.7"}),
        segment_path=rest.pop("segment_path", "/dev/shm/roam-0/x/3-abc.segment"),
        **rest,
    )


def make_exit(**rest: Any) -> CellExit:
    """An exit by SIGSEGV, unless told otherwise."""
    return CellExit(
        **{
            "kind": ExitKind.SIGNALED,
            "signal": 11,
            "stage": Stage.RUN,
            "started_ns": WALL_NS,
            "ended_ns": WALL_NS + 10 * SECOND,
            "max_rss_bytes": 40 << 20,
            "verdict": "crashed in native code",
            "evidence": ("signal 11",),
            **rest,
        }
    )
