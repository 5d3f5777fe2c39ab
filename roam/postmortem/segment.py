"""The post-mortem of a segment that nobody has written a dump of: its host died, or the cell still runs."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import DumpError
from ..exit import CellExit, Confidence, ExitKind
from ..shm.segment import boot_id
from ..tracing.offline import remains_of_segment
from ..tracing.peer import Remains
from .model import PostMortem
from .stacks import fatal_error

__all__ = ["SEGMENT_SUFFIX", "birth_order", "end_of", "end_of_orphan", "of_segment"]

SEGMENT_SUFFIX = ".segment"


def birth_order(segment: Path) -> tuple[int, str]:
    """Sorts the segments of a run: their names begin with the ids of their peers."""
    number = segment.name.partition("-")[0]
    return (int(number) if number.isdecimal() and len(number) < 20 else 0, segment.name)


def of_segment(path: str | os.PathLike[str]) -> PostMortem:
    """Read a segment file as it is now, without changing it. Raises `SegmentError`, or `DumpError` if it cannot be opened.

    How a cell ended is not in its segment: the exit says `lost`, or the post-mortem `is_live`. The end of a dead one is
    the moment of its last record.
    """
    segment = Path(path)
    try:
        remains = remains_of_segment(segment)
    except OSError as error:
        raise DumpError(path=str(path), why=f"it cannot be read: {error.strerror or error}") from error
    return PostMortem.of(remains, end_of(remains), {}, is_live=remains.is_live)


def end_of(
    remains: Remains,
    *,
    verdict: str = "unknown",
    confidence: Confidence = Confidence.UNKNOWN,
    evidence: tuple[str, ...] = (),
) -> CellExit:
    """The exit of a cell of which only a segment is left.

    Fatal stacks are a better cause than `verdict`; `evidence` comes first among what speaks for it.
    """
    fatal = fatal_error(remains.fault_text.decode("utf-8", "backslashreplace"))
    found = list(evidence)
    if fatal is not None:
        found.append("the fatal stacks that it wrote")
    if remains.said_goodbye:
        found.append("it had said goodbye: its target was done")
    return CellExit(
        kind=ExitKind.LOST,
        stage=remains.stage,
        started_ns=remains.anchor.wall_ns,
        ended_ns=remains.died_ns,
        # Without a goodbye these words hold any old number.
        cpu_s=remains.cpu_ns / 1e9 if remains.said_goodbye and remains.cpu_ns is not None else None,
        max_rss_bytes=remains.max_rss_bytes if remains.said_goodbye else None,
        last_beat_ns=None if remains.last_beat_ns is None else remains.anchor.to_wall_ns(remains.last_beat_ns),
        verdict=verdict if fatal is None else fatal,
        confidence=confidence if fatal is None else Confidence.CERTAIN,
        evidence=tuple(found),
    )


def end_of_orphan(remains: Remains) -> CellExit:
    """The exit of a peer of which only a segment is left because its host is gone, or that is the host itself."""
    evidence = ["nobody held the lock on its run directory"]
    if remains.header.get("boot_id") != boot_id().hex():
        evidence.append("the machine was started anew since")
    if remains.peer.peer_id == 0:
        verdict = "ended without closing"
    else:
        evidence[0] = "nobody held the lock on the run directory of its host"
        verdict = "ended by itself; its host was gone" if remains.said_goodbye else "its host was gone"
    return end_of(remains, verdict=verdict, confidence=Confidence.LIKELY, evidence=tuple(evidence))
