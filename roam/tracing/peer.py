"""What a host knows of a peer beyond its records, and what it needs of whoever stands behind it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

from ..clock import ClockAnchor
from ..errors import RecordError
from ..exit import CellExit
from ..shm.reader import Chunk, Gap
from ..shm.spans import OpenBody
from ..stage import Stage
from .codec import decode
from .dumps import DumpKeeper, DumpLimits
from .lanes import LANES
from .records import Lost, Peer, Record, SpanEnter
from .statistics import PeerStatistics

if TYPE_CHECKING:
    from .link import PeerLink

__all__ = [
    "Entry",
    "LinkKeeper",
    "OpenSpan",
    "PeerOwner",
    "Remains",
    "Undertaker",
    "decode_chunks",
    "lost_of",
    "open_span_of",
    "time_of_gap",
]


Entry: TypeAlias = tuple[int, str, int | None, bytes | Lost]
"""A record on its way to subscribers: wall time in nanoseconds, lane, sequence, and its body or the notice of a loss."""


class OpenSpan(msgspec.Struct, frozen=True):
    """A span that had begun and not ended."""

    span_id: bytes
    parent_id: bytes | None
    trace_id: bytes
    name: str
    target: str
    fields: dict[str, Any]
    """Those it was opened with and those recorded since, cut to what a slot of the table holds."""
    thread: int
    started_ns: int
    """Wall-clock nanoseconds."""
    age_ns: int
    """How long it had been open."""


@dataclass(slots=True)
class Remains:
    """Everything that is left of a peer: of a dead one, or of a segment found without a host."""

    peer: Peer
    anchor: ClockAnchor
    chunks: list[Chunk]
    lost: list[Lost]
    open_spans: list[OpenSpan]
    statistics: PeerStatistics
    stage: Stage
    config: str
    """Text of the capture filter in force."""
    died_ns: int
    """Wall-clock nanoseconds of the moment it was found dead; without a host of its last sign of life, or, if it
    still lives, of the moment it was looked at."""
    fault_text: bytes
    stderr_tail: bytes
    header: dict[str, str | int]
    segment_path: str
    stdout_tail: bytes = b""
    result_length: int | None = None
    cpu_ns: int | None = None
    """Processor time as the cell itself last said it."""
    max_rss_bytes: int | None = None
    is_live: bool = False
    """Whether the process still has the segment mapped. Only looked at where no host says so."""
    said_goodbye: bool = False
    """Whether the cell reached its own end, after its target."""
    last_beat_ns: int | None = None
    """The cell's last sign of life on the monotonic clock, as it said; None where there was none."""
    damage: list[str] = field(default_factory=list)

    def records(self) -> list[Record]:
        """All records that can still be read, and what is known to be missing, in time order."""
        return decode_chunks(self.chunks, self.lost, self.anchor)


class PeerOwner(Protocol):
    """Whoever stands behind a peer."""

    @property
    def exit(self) -> CellExit | None:
        """How the process ended; None while it lives."""
        ...

    @property
    def dump_path(self) -> Path | None:
        """The post-mortem file, where there is one."""
        ...

    def catch_up(self) -> None:
        """Called once, in the host's second thread, after the final drain and before `conclude`: bring in what else is on
        its way from the peer, so that it is among its remains. Must not raise."""
        ...

    def conclude(self, remains: Remains) -> None:
        """Called once, in the host's second thread, after that: find out how it ended, write the dump,
        wake whoever waits. Must not raise."""
        ...

    def end(self) -> None:
        """Called when the host closes, in a thread of its own: end the process, and return when that is done or given up."""
        ...

    def abort(self) -> None:
        """As `end`, without giving the process time."""
        ...


class LinkKeeper(Protocol):
    """The host, as its links need it."""

    def started(self, link: PeerLink, pid: int, pidfd: int) -> None:
        """See `PeerLink.started`."""
        ...

    def abandon(self, link: PeerLink) -> None:
        """See `PeerLink.abandon`."""
        ...

    def release(self, link: PeerLink) -> None:
        """See `PeerLink.release`."""
        ...

    def flush_forwarding(self, timeout_s: float) -> bool:
        """See `PeerLink.flush_forwarding`."""
        ...

    def stir(self, link: PeerLink) -> None:
        """See `PeerLink.stir`."""
        ...

    def bring(self, link: PeerLink, items: list[Chunk | Gap]) -> None:
        """See `PeerLink.bring`."""
        ...


class Undertaker(Protocol):
    """What stands above a host: where dumps go, and who owns a peer that was registered without an owner."""

    def prepare(self, dump_dir: str | os.PathLike[str] | None, limits: DumpLimits) -> DumpKeeper:
        """Choose and check the directory for dumps, and salvage what killed hosts have left. Raises `DumpError` if nothing
        can be written there."""
        ...

    def adopt(self, link: PeerLink) -> None:
        """Give `link.owner` an owner, for a process that roam does not start."""
        ...


def decode_chunks(chunks: Iterable[Chunk], lost: Iterable[Lost], anchor: ClockAnchor) -> list[Record]:
    """Decode raw records, put what is lost among them, and sort by time. What does not decode becomes a `Lost`."""
    found: list[Record] = list(lost)
    for chunk in chunks:
        lane = LANES[chunk.lane]
        for seq, monotonic_ns, payload in chunk:
            time_ns = anchor.to_wall_ns(monotonic_ns)
            try:
                record = decode(payload)
            except RecordError:
                found.append(Lost(lane, seq, 1, "undecodable", time_ns))
                continue
            record.time_ns, record.seq, record.lane = time_ns, seq, lane  # type: ignore[misc]
            found.append(record)
    found.sort(key=_time_of)
    return found


def _time_of(record: Record) -> int:
    return record.time_ns


def lost_of(gap: Gap, time_ns: int) -> Lost:
    """A gap as a record, at the place in time where it was noticed."""
    return Lost(LANES[gap.lane], gap.first_seq, gap.count, gap.cause, time_ns)


def time_of_gap(
    items: Sequence[Chunk | Gap], index: int, anchor: ClockAnchor, before: Chunk | None = None
) -> int | None:
    """Just before the record of its lane that follows the gap at `index`, else just after the one that precedes it, so
    that it sorts into its place; None where there is neither. `before` is what the lane had before `items`."""
    lane = items[index].lane
    for item in items[index + 1 :]:
        if isinstance(item, Chunk) and item.lane == lane:
            for _, monotonic_ns, _ in item:
                return anchor.to_wall_ns(monotonic_ns) - 1
    for item in reversed(items[:index]):
        if isinstance(item, Chunk) and item.lane == lane:
            before = item
            break
    times = [monotonic_ns for _, monotonic_ns, _ in before] if before is not None else []
    return anchor.to_wall_ns(times[-1]) + 1 if times else None


def open_span_of(body: OpenBody, anchor: ClockAnchor, now_ns: int) -> OpenSpan | None:
    """A slot of the open-span table, decoded; None if it is not a span."""
    try:
        record = decode(body.payload)
    except RecordError:
        return None
    if not isinstance(record, SpanEnter):
        return None
    return OpenSpan(
        record.span_id,
        record.parent_id,
        record.trace_id,
        record.message,
        record.target,
        record.fields,
        record.thread,
        anchor.to_wall_ns(body.time_ns),
        max(0, now_ns - body.time_ns),
    )
