"""Records: what a cell says, as the host hands it on.

The classes are at once the wire format and the public objects. On the wire a record body is the msgpack array
`[tag, field, field, …]` in the order of the annotations below; trailing fields that hold their default may be
absent. `time_ns`, `seq` and `lane` never come from the body: the reader sets them from the ring, after decoding.

Every class answers every attribute of `Record`; where a kind has no such thing it is None or an empty dict.

Records are outside the garbage collector (`gc=False`): a decoded record cannot be part of a cycle, and a host that
keeps a hundred thousand of them would otherwise have them all walked again and again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

import msgspec

from ..stage import ExceptionText

__all__ = [
    "CRITICAL",
    "CUT",
    "DEBUG",
    "ERROR",
    "FIELD_CONVERTED",
    "INFO",
    "MESSAGE_CONVERTED",
    "PRINTED",
    "TRACE",
    "WARNING",
    "Dropped",
    "Event",
    "Lost",
    "Peer",
    "Record",
    "SpanClose",
    "SpanEnter",
    "SpanExit",
    "TaggedRecord",
    "level_name",
]

TRACE, DEBUG, INFO, WARNING, ERROR, CRITICAL = 5, 10, 20, 30, 40, 50
_NAMES = {TRACE: "TRACE", DEBUG: "DEBUG", INFO: "INFO", WARNING: "WARNING", ERROR: "ERROR", CRITICAL: "CRITICAL"}

MESSAGE_CONVERTED = 1
"""Flag: the message was not a plain `str` and its text was made by roam."""
FIELD_CONVERTED = 2
"""Flag: at least one field value (or key) had no wire type of its own and was turned into bounded text."""
CUT = 4
"""Flag: something was cut to fit; `cuts` has the original lengths."""
PRINTED = 8
"""Flag: the program's own handlers or hooks were given it, or its levels suppress it: the host's last resort is silent.
Of a line that was printed: this process's terminal shows it, and its logging is not given it."""


def level_name(level: int) -> str:
    """`"WARNING"` for 30; `"LEVEL 33"` for a number without a name."""
    return _NAMES.get(level) or f"LEVEL {level}"


class Event(msgspec.Struct, array_like=True, gc=False, tag_field="kind", tag=0):
    """A moment: one call of `roam.info` and its family, one `logging` record, one warning, one uncaught exception."""

    level: int
    target: str
    message: str
    fields: dict[str, Any]
    thread: int | None
    """None in a line that was printed: nobody knows who did."""
    span_id: bytes | None
    """8 bytes: the span it happened in; outside of all spans the process's root span. A line that was printed has the span
    in which its process was started, None for none; likewise its trace."""
    trace_id: bytes | None
    exception: ExceptionText | None = None
    flags: int = 0
    cuts: dict[str, int] = msgspec.field(default_factory=dict)
    """Original length of what was cut: `message`, `exception`, `fields` (how many there were) or `fields.<key>`."""
    time_ns: int = 0
    """Wall-clock nanoseconds since the epoch."""
    seq: int = 0
    lane: str = ""
    kind: ClassVar[str] = "event"
    parent_id: ClassVar[None] = None


class SpanEnter(msgspec.Struct, array_like=True, gc=False, tag_field="kind", tag=1):
    """A span begins, or a generator's span is entered again. `message` is the span's name."""

    level: int
    target: str
    message: str
    fields: dict[str, Any]
    thread: int
    span_id: bytes
    trace_id: bytes
    parent_id: bytes | None = None
    flags: int = 0
    cuts: dict[str, int] = msgspec.field(default_factory=dict)
    time_ns: int = 0
    seq: int = 0
    lane: str = ""
    kind: ClassVar[str] = "span_enter"
    exception: ClassVar[None] = None


class SpanExit(msgspec.Struct, array_like=True, gc=False, tag_field="kind", tag=2):
    """A generator yields: its span is left, and will be entered again or closed."""

    level: int
    target: str
    message: str
    thread: int
    span_id: bytes
    trace_id: bytes
    parent_id: bytes | None = None
    flags: int = 0
    time_ns: int = 0
    seq: int = 0
    lane: str = ""
    kind: ClassVar[str] = "span_exit"
    exception: ClassVar[None] = None
    fields: ClassVar[Mapping[str, Any]] = {}
    cuts: ClassVar[Mapping[str, int]] = {}


class SpanClose(msgspec.Struct, array_like=True, gc=False, tag_field="kind", tag=3):
    """A span ends. `fields` are those recorded since it was entered."""

    level: int
    target: str
    message: str
    fields: dict[str, Any]
    thread: int
    span_id: bytes
    trace_id: bytes
    parent_id: bytes | None = None
    duration_ns: int = 0
    exception: ExceptionText | None = None
    flags: int = 0
    cuts: dict[str, int] = msgspec.field(default_factory=dict)
    time_ns: int = 0
    seq: int = 0
    lane: str = ""
    kind: ClassVar[str] = "span_close"


class Dropped(msgspec.Struct, array_like=True, gc=False, tag_field="kind", tag=4):
    """Before this place in its lane the cell dropped records that never got a sequence number. `counts` is by cause."""

    counts: dict[str, int]
    time_ns: int = 0
    seq: int = 0
    lane: str = ""
    kind: ClassVar[str] = "dropped"
    level: ClassVar[int] = WARNING
    target: ClassVar[str] = "roam"
    thread: ClassVar[None] = None
    span_id: ClassVar[None] = None
    parent_id: ClassVar[None] = None
    trace_id: ClassVar[None] = None
    exception: ClassVar[None] = None
    flags: ClassVar[int] = 0
    cuts: ClassVar[Mapping[str, int]] = {}

    @property
    def fields(self) -> Mapping[str, Any]:
        """The counts by cause."""
        return self.counts

    @property
    def message(self) -> str:
        """The counts as text."""
        return "dropped before writing: " + ", ".join(f"{count} {cause}" for cause, count in self.counts.items())


class Lost(msgspec.Struct, array_like=True, gc=False, tag_field="kind", tag=5):
    """Made by the host: `count` records of `lane` from sequence `first_seq` on are gone. `first_seq` is None where they never had one."""

    lane: str
    first_seq: int | None
    count: int
    cause: str
    """`overwritten`, `corrupt`, `undecodable`, `stdio_cut`, or a cause of `Dropped` for what the cell could not announce any more."""
    time_ns: int = 0
    """When the host noticed."""
    kind: ClassVar[str] = "lost"
    level: ClassVar[int] = WARNING
    target: ClassVar[str] = "roam"
    thread: ClassVar[None] = None
    span_id: ClassVar[None] = None
    parent_id: ClassVar[None] = None
    trace_id: ClassVar[None] = None
    exception: ClassVar[None] = None
    flags: ClassVar[int] = 0
    cuts: ClassVar[Mapping[str, int]] = {}

    @property
    def seq(self) -> int | None:
        """The first sequence number that is missing."""
        return self.first_seq

    @property
    def fields(self) -> Mapping[str, Any]:
        """Count and cause."""
        return {"count": self.count, "cause": self.cause}

    @property
    def message(self) -> str:
        """Count, lane and cause as text."""
        return f"{self.count} records of lane {self.lane} lost: {self.cause}"


Record: TypeAlias = Event | SpanEnter | SpanExit | SpanClose | Dropped | Lost
"""Anything that a stream of records can hold."""


class Peer(msgspec.Struct, frozen=True, gc=False):
    """One attachment: an id that is never reused while its host lives, the epoch of its segment, a name, a process id."""

    peer_id: int
    epoch: int
    name: str
    pid: int | None
    """None until a registered process has attached."""


class TaggedRecord(msgspec.Struct, frozen=True, gc=False):
    """A record with the peer it came from."""

    peer: Peer
    record: Record
