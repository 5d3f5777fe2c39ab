"""The programs that are killed at every bytecode, and what follows from how far they have come."""

from __future__ import annotations

import dataclasses
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import roam
from roam.shm.header import Identity
from roam.shm.layout import BULK, CAUSES, LANES, LIFE, VITAL, SegmentConfig, announced_word, dropped_word
from roam.shm.mapping import MappedSegment
from roam.shm.segment import SegmentFile
from roam.shm.spans import read_open_spans
from roam.shm.writer import SegmentWriter
from roam.tracing import emitter as emitters
from roam.tracing.codec import decode
from roam.tracing.emitter import Emitter

from .dead_lane import IDENTITY, PAGE_BYTES, body_of
from .goal import Tally, expect

__all__ = ["PROGRAMS", "Program"]

Step = Callable[[int], None]

NEWEST = 0
"""The first of the causes for a drop."""


class Program(ABC):
    """Steps that depend on nothing but their number.

    Every question has its answer for the program as it was made, not for one that runs: how many records stand in a
    lane after so many steps, what each of them says, what else there is to see.
    """

    config: ClassVar[SegmentConfig]
    lanes: ClassVar[tuple[int, ...]]
    identity: Identity
    steps: int

    @abstractmethod
    def begin(self, fd: int) -> Step:
        """In the process that will run it: attach to the segment. Returns what runs one step."""

    @abstractmethod
    def emitted(self, steps: int) -> Mapping[int, int]:
        """How many records each lane has got after so many steps."""

    @abstractmethod
    def is_written(self, lane: int, seq: int, body: bytes) -> bool:
        """Whether a body is that of a record."""

    @abstractmethod
    def check_rest(self, segment: SegmentFile, begun: int, done: int, emitted: Mapping[int, int], tally: Tally) -> None:
        """Hold what is beside the lanes, in which `emitted` records stand, against the steps. Raises `Broken`."""


class WriterProgram(Program):
    """Forty records through `SegmentWriter`, three of them behind drops; the lane is lapped twice."""

    config = SegmentConfig(
        page_bytes=PAGE_BYTES, life_pages=2, vital_pages=2, bulk_pages=2, record_bytes=256, span_slots=1
    )
    lanes = (BULK,)
    identity = IDENTITY

    DROPS = {7: 1, 15: 2, 33: 3}  # noqa: RUF012 – as constant as the rest
    """How many records are dropped in front of which."""

    def __init__(self) -> None:
        self._plan: list[bytes | None] = []
        """A body for each step that writes one; None for a drop."""
        self._bodies: list[bytes] = []
        """All that comes into the lane, by sequence."""
        self._told: list[int] = [0]
        """How many drops the first so many records tell of."""
        self._emitted: list[int] = [0]
        """How many records there are after so many steps."""
        for number in range(40):
            drops = self.DROPS.get(number, 0)
            self._plan += [None] * drops
            self._emitted += [len(self._bodies)] * drops
            if drops:
                self._append(_dropped({"newest": drops}), drops)
            body = body_of(number)
            self._plan.append(body)
            self._append(body, 0)
            self._emitted.append(len(self._bodies))
        self.steps = len(self._plan)

    def _append(self, body: bytes, told: int) -> None:
        self._bodies.append(body)
        self._told.append(self._told[-1] + told)

    def begin(self, fd: int) -> Step:
        """See `Program.begin`."""
        segment = MappedSegment(fd)
        ticks = itertools.count(1)
        writer = SegmentWriter(
            segment.memory, segment.geometry, encode_dropped=_dropped, ring=lambda: None, clock=lambda: next(ticks)
        )

        def step(number: int) -> None:
            body = self._plan[number]
            if body is None:
                writer.drop(BULK, "newest")
            else:
                writer.write(BULK, body, 0)

        return step

    def emitted(self, steps: int) -> Mapping[int, int]:
        """See `Program.emitted`."""
        return {BULK: self._emitted[steps]}

    def is_written(self, lane: int, seq: int, body: bytes) -> bool:
        """See `Program.is_written`."""
        return lane == BULK and seq < len(self._bodies) and self._bodies[seq] == body

    # r[verify shm.dropped.announced]
    def check_rest(self, segment: SegmentFile, begun: int, done: int, emitted: Mapping[int, int], tally: Tally) -> None:
        """Every drop is counted, and of every drop that the lane does not tell of the words say so.

        Of a `Dropped` record that is the newest of its lane the words may not know yet.
        """
        dropped, announced = (segment.word(word(BULK, NEWEST)) for word in (dropped_word, announced_word))
        counted = {self._plan[:steps].count(None) for steps in (begun, done)}
        expect(dropped in counted, f"{dropped} drops are counted, not {counted}")
        records = emitted[BULK]
        told = {self._told[records], self._told[max(0, records - 1)]}
        expect(announced in told, f"{announced} drops are said to be told of, and {records} records tell of {told}")
        tally.counts["with drops to be told"] += announced < dropped


def _dropped(counts: dict[str, int]) -> bytes:
    return json.dumps(counts).encode().ljust(40)


@dataclasses.dataclass(frozen=True)
class _Said:
    """What a record has to say."""

    kind: str
    message: str
    fields: dict[str, Any]


class TracingProgram(Program):
    """Forty records as programs write them: events of three lanes, and two spans, one in the other, which end."""

    config = SegmentConfig(
        page_bytes=PAGE_BYTES, life_pages=2, vital_pages=2, bulk_pages=2, record_bytes=512, span_slots=2
    )
    lanes = (LIFE, VITAL, BULK)
    identity = IDENTITY

    ROUND = (
        ("info", BULK),
        ("enter outer", BULK),
        ("info", BULK),
        ("enter inner", BULK),
        ("warning", VITAL),
        ("rewrite inner", None),
        ("error", LIFE),
        ("leave inner", BULK),
        ("leave outer", BULK),
    )
    """What happens again and again, and in which lane it leaves a record."""

    def __init__(self) -> None:
        self.steps = 5 * len(self.ROUND)
        self._said: dict[int, list[_Said]] = {lane: [] for lane in self.lanes}
        self._emitted = [dict.fromkeys(self.lanes, 0)]
        self._open: list[list[tuple[str, dict[str, Any]]]] = [[]]
        """Name and fields of the open spans after so many steps, the outer one first."""
        for number in range(self.steps):
            self._plan(number)

    def _plan(self, number: int) -> None:
        what, lane = self.ROUND[number % len(self.ROUND)]
        verb, _, span = what.partition(" ")
        before = self._open[-1]
        if verb == "enter":
            said, after = _Said("span_enter", span, _fields(number)), [*before, (span, _fields(number))]
        elif verb == "rewrite":
            said, after = None, [*before[:-1], (span, before[-1][1] | {"found": number})]
        elif verb == "leave":
            said, after = _Said("span_close", span, {"found": number - 2} if span == "inner" else {}), before[:-1]
        else:
            said, after = _Said("event", verb, _fields(number)), before
        if said is not None and lane is not None:
            self._said[lane].append(said)
        self._open.append(after)
        self._emitted.append({lane: len(records) for lane, records in self._said.items()})

    def begin(self, fd: int) -> Step:
        """See `Program.begin`."""
        emitters.install(Emitter(MappedSegment(fd), ring=lambda: None))
        bound = roam.get_tracer("proof")
        error = ValueError("the same each time")
        spans: list[Any] = []

        def step(number: int) -> None:
            verb, _, name = self.ROUND[number % len(self.ROUND)][0].partition(" ")
            if verb == "enter":
                spans.append(roam.span(name, **_fields(number)))
                spans[-1].__enter__()
            elif verb == "rewrite":
                spans[-1].record(found=number)
            elif verb == "leave":
                spans.pop().__exit__(None, None, None)
            elif verb == "error":
                roam.error(verb, exc_info=error, **_fields(number))
            elif verb == "warning":
                bound.warning(verb, **_fields(number))
            else:
                roam.info(verb, **_fields(number))

        return step

    def emitted(self, steps: int) -> Mapping[int, int]:
        """See `Program.emitted`."""
        return self._emitted[steps]

    def is_written(self, lane: int, seq: int, body: bytes) -> bool:
        """See `Program.is_written`."""
        record = decode(body)
        found = _Said(record.kind, record.message, dict(record.fields))
        has_exception = (record.exception is not None) == (lane == LIFE)
        return has_exception and seq < len(self._said[lane]) and self._said[lane][seq] == found

    def check_rest(self, segment: SegmentFile, begun: int, done: int, emitted: Mapping[int, int], tally: Tally) -> None:
        """The table shows the spans of before the step that was begun, or those of after it, and nothing was dropped."""
        bodies, torn = read_open_spans(
            segment.read, offset=segment.geometry.spans_offset, slots=segment.config.span_slots
        )
        expect(not torn, f"{torn} slots of the open-span table are torn")
        records = [decode(body.payload) for body in bodies]
        found = [(record.message, dict(record.fields)) for record in records]
        expect(found in (self._open[done], self._open[begun]), f"open are {found}, not {self._open[done : begun + 1]}")
        tally.counts["with spans open"] += bool(found)
        for lane in emitted:
            dropped = sum(segment.word(dropped_word(lane, cause)) for cause in range(len(CAUSES)))
            expect(not dropped, f"{dropped} drops in lane {LANES[lane]}, of which nobody knows")


def _fields(number: int) -> dict[str, Any]:
    return {"number": number, "text": "x" * (number * 37 % 120)}


PROGRAMS: dict[str, Program] = {"writer": WriterProgram(), "tracing": TracingProgram()}
"""By the names that cases have."""
