"""Reading a segment as a whole: its words, numbers, open spans and the files beside it, for the host and for `offline`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..shm.layout import CAUSES, LANES, StatusWord, announced_word, dropped_word
from ..shm.reader import RingReader
from ..shm.segment import SegmentFile
from ..shm.spans import read_open_spans
from .config import ConfigResult
from .lanes import STDIO_NAME
from .lines import Lines
from .peer import OpenSpan, open_span_of
from .records import Lost
from .retention import Retention
from .statistics import LaneStatistics, PeerStatistics
from .testimony import status_word

__all__ = [
    "ENDED",
    "TAIL_LIMIT_BYTES",
    "config_result",
    "header_of",
    "lane_statistics",
    "open_spans_of",
    "peer_statistics",
    "read_tail",
    "unannounced_of",
]

TAIL_LIMIT_BYTES = 64 * 1024

ENDED = "the cell has ended"
NOT_UNDERSTOOD = "the cell does not understand it, as one of another version of roam may not"


def lane_statistics(readers: list[RingReader], words: list[int]) -> dict[str, LaneStatistics]:
    """The accounting identity's numbers of all lanes, each measured on its own."""
    lanes = {}
    for lane, (name, reader) in enumerate(zip(LANES, readers, strict=True)):
        measured = reader.measure()
        counts = {cause: status_word(words, dropped_word(lane, index)) for index, cause in enumerate(CAUSES)}
        lanes[name] = LaneStatistics(
            emitted=measured.emitted,
            delivered=reader.delivered,
            lost=reader.lost + measured.overwritten,
            resident=measured.resident,
            dropped={cause: count for cause, count in counts.items() if count},
        )
    return lanes


def open_spans_of(segment: SegmentFile, now_ns: int) -> tuple[list[OpenSpan], int]:
    """The open-span table, decoded, outermost first, and how many slots were torn. `now_ns` is monotonic."""
    bodies, torn = read_open_spans(segment.read, offset=segment.geometry.spans_offset, slots=segment.config.span_slots)
    spans = []
    for body in bodies:
        span = open_span_of(body, segment.identity.anchor, now_ns)
        if span is None:
            torn += 1
        else:
            spans.append(span)
    return spans, torn


def peer_statistics(
    readers: list[RingReader],
    words: list[int],
    slots: Mapping[str, int],
    *,
    torn: int = 0,
    retention: Retention | None = None,
    lines: Lines | None = None,
) -> PeerStatistics:
    """All numbers of a peer, from its readers and a copy of its status words. `slots` says where it counts by key, and
    `lines` counts what it has printed."""
    lanes = lane_statistics(readers, words)
    if lines is not None:
        lanes[STDIO_NAME] = lines.statistics
    return PeerStatistics(
        lanes=lanes,
        spans_torn=torn,
        spans_overflowed=status_word(words, StatusWord.SPANS_OVERFLOWED),
        suppressed={key: status_word(words, StatusWord.SUPPRESSED + slot) for key, slot in sorted(slots.items())},
        retained_bytes=retention.size_bytes if retention is not None else 0,
        evicted=retention.evicted if retention is not None else 0,
    )


def unannounced_of(words: list[int], time_ns: int) -> list[Lost]:
    """What a cell dropped and could not announce in its lanes any more, for the end of its stream."""
    found = []
    for lane, name in enumerate(LANES):
        for index, cause in enumerate(CAUSES):
            dropped = status_word(words, dropped_word(lane, index))
            announced = status_word(words, announced_word(lane, index))
            if dropped > announced:
                found.append(Lost(name, None, dropped - announced, cause, time_ns))
    return found


def config_result(posted: ConfigResult, words: list[int], *, has_ended: bool) -> ConfigResult:
    """What a cell says of a configuration that was posted to it."""
    # r[impl trace.config.result]
    if posted.refused:
        return posted
    if status_word(words, StatusWord.ACKNOWLEDGED) >= posted.generation:
        return posted._replace(applied=True)
    if status_word(words, StatusWord.REFUSED) == posted.generation:
        return posted._replace(refused=NOT_UNDERSTOOD)
    return posted._replace(refused=ENDED) if has_ended else posted


def header_of(segment: SegmentFile) -> dict[str, str | int]:
    """What the segment says of its maker."""
    identity = segment.identity
    return {
        "host_pid": identity.host_pid,
        "host_start_ticks": identity.host_start_ticks,
        "boot_id": identity.boot_id.hex(),
        "roam_version": identity.roam_version,
        "python_version": identity.python_version,
    }


def read_tail(path: Path, limit_bytes: int) -> bytes:
    """The last bytes of a regular file; nothing if it is not there or is something else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        size = os.fstat(fd).st_size
        return os.pread(fd, limit_bytes, max(0, size - limit_bytes))
    except OSError:
        return b""
    finally:
        os.close(fd)
