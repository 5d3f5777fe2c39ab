"""SIGKILL at every bytecode: a writer dies at the k-th instruction of some forty emits, for every k.

Two programs are killed. One calls the writer of a segment with records and drops. The other calls what users call:
`roam.info` and its family, with spans that are open meanwhile. Both note which step they have begun and which has
returned. What they may have left behind follows from these two numbers alone, and there are at most two answers.
"""

from __future__ import annotations

import functools
import mmap
import os
import random
import signal
import sys
import traceback
from collections.abc import Iterator
from functools import partial
from typing import NoReturn

from roam.shm import ownership, ring, spans, writer
from roam.shm.reader import Chunk, Gap
from roam.shm.ring import RingWriter
from roam.shm.segment import SegmentFile
from roam.tracing import codec, emitter, tracer
from roam.tracing import spans as tracing_spans

from .dead_lane import PAGE_BYTES, check_stream
from .exact_programs import PROGRAMS, Program
from .goal import Broken, Case, Goal, Tally, expect
from .stepping import Place, Stepper, code_of, stretch

__all__ = ["ExactKills"]

WATCHED = code_of((ownership, ring, spans, writer, emitter, tracer, codec, tracing_spans))
POINTS_OF_A_CASE = 100
SMALL_STRIDE = 97
SMALL_FEW = 20
LEAST_POINTS = 4000

BEGUN, DONE, COUNT = range(3)
"""The words of a program: the steps that it has begun and done; its instructions, which follow, if it was not killed."""
MOST_INSTRUCTIONS = 200_000


# r[verify shm.record.commit]
# r[verify shm.span.table]
class ExactKills(Goal):
    """Kills at every instruction."""

    name = "exact-kills"
    unit = "kills"
    promise = (
        "after every single bytecode: acked <= delivered + lost <= started, nothing torn, all that is resident "
        "delivered, every drop counted and told of, the open spans those before or after the step"
    )
    covers = (
        "laps",
        "in a page turn",
        "between commit and state",
        "before a commit",
        "between commit and return",
        "with spans open",
        "with drops to be told",
    )
    shards = 2

    def why_not(self) -> str | None:
        """CPython 3.11 cannot count instructions."""
        return None if hasattr(sys, "monitoring") else "sys.monitoring counts the instructions, from Python 3.12 on"

    def cases(self, *, small: bool, seed: int) -> Iterator[Case]:
        """Every instruction of both programs; in the small form one of 97, beginning where the seed says, and some in
        the places that are few."""
        source = random.Random(seed)
        for name, program in PROGRAMS.items():
            places = places_of(program)
            points = list(range(1, len(places) + 1))
            if small:
                few = [point for point in points if place_name(places[point - 1])]
                points = points[source.randrange(SMALL_STRIDE) :: SMALL_STRIDE] + source.sample(few, SMALL_FEW)
            for start in range(0, len(points), POINTS_OF_A_CASE):
                yield {"program": name, "points": points[start : start + POINTS_OF_A_CASE]}

    def check(self, case: Case, tally: Tally) -> None:
        """Some points of one program."""
        program = PROGRAMS[case["program"]]
        places = places_of(program)
        for point in case["points"]:
            try:
                _kill(program, point, tally)
            except Broken as broken:
                raise Broken(f"killed at instruction {point}: {broken}", points=[point]) from broken
            tally.counts[self.unit] += 1
            tally.counts[f"of {case['program']}"] += 1
            tally.counts[place_name(places[point - 1])] += 1

    def conclude(self, tally: Tally, *, small: bool) -> None:
        """There were enough instructions to speak of."""
        least = LEAST_POINTS // SMALL_STRIDE if small else LEAST_POINTS
        expect(tally.counts[self.unit] >= least, f"only {tally.counts[self.unit]:,} points")

    def figures(self, tally: Tally) -> str:
        """What the table says."""
        programs = ", ".join(f"{tally.counts[f'of {name}']:,} of the {name}" for name in PROGRAMS)
        places = ", ".join(f"{tally.counts[name]:,} {name}" for name in self.covers)
        return f"{programs}; {places}"


TURN = stretch(RingWriter._turn, ("STORE_SUBSCR", None, 0), ("STORE_SUBSCR", None, 3))
"""Behind the store that makes a page invalid, up to the one that makes it valid."""
COMMITTED = stretch(RingWriter.append, ("STORE_SUBSCR", None, -1), ("STORE_ATTR", "_state", -1))
"""Behind the store that commits, up to the one that remembers it."""


def place_name(place: Place) -> str:
    """What a process is in the middle of that is about to run an instruction; empty where that is nothing special."""
    code, offset = WATCHED[place[0]], place[1]
    if code is RingWriter._turn.__code__ and offset in TURN:
        return "in a page turn"
    return "between commit and state" if code is RingWriter.append.__code__ and offset in COMMITTED else ""


def _kill(program: Program, point: int, tally: Tally) -> None:
    """One writer, from its birth to its drained lanes."""
    segment = SegmentFile.create_anonymous(program.config, program.identity)
    try:
        words = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        status = _run(program, segment, words, point)
        expect(status == signal.SIGKILL, f"the program never came so far, and ended by itself with {status}")
        begun, done = words[BEGUN], words[DONE]
        started, acked = program.emitted(begun), program.emitted(done)
        emitted = {}
        for lane in program.lanes:
            found, image = _drain(segment, lane, is_polled=point % 2 == 1)
            emitted[lane] = count = check_stream(
                found, image, acked[lane], started[lane], partial(program.is_written, lane)
            )
            tally.counts["laps"] += any(isinstance(item, Gap) for item in found)
            tally.counts["before a commit"] += count < started[lane]
            tally.counts["between commit and return"] += acked[lane] < count
        program.check_rest(segment, begun, done, emitted, tally)
    finally:
        segment.close()


def _drain(segment: SegmentFile, lane: int, *, is_polled: bool) -> tuple[list[Chunk | Gap], bytes]:
    """All that the reader of a dead lane finds, and the lane's bytes; with `is_polled` as a host does that looked in
    before it knew of the death."""
    reader = segment.lane_reader(lane)
    found = reader.poll() if is_polled else []
    while items := reader.poll(final=True):
        found += items
    counted = sum(item.count for item in found)
    expect(reader.delivered + reader.lost == counted, f"{reader.delivered} + {reader.lost} of {counted}")
    geometry = segment.geometry
    return found, segment.read(geometry.lane_offsets[lane], geometry.lane_pages[lane] * PAGE_BYTES)


@functools.cache
def places_of(program: Program) -> list[Place]:
    """The instructions of a program when nobody kills it."""
    segment = SegmentFile.create_anonymous(program.config, program.identity)
    try:
        words = memoryview(mmap.mmap(-1, MOST_INSTRUCTIONS * 8)).cast("Q")
        status = _run(program, segment, words, 0)
        expect(status == 0 and words[DONE] == program.steps, f"the program ended early, with {status}")
        return [divmod(word, 1 << 32) for word in words[3 : 3 + words[COUNT]]]
    finally:
        segment.close()


def _run(program: Program, segment: SegmentFile, words: memoryview, kill_at: int) -> int:
    """Run a program in a forked child, up to an instruction or its end; returns its wait status."""
    pid = os.fork()
    if pid == 0:
        _be_program(program, segment.fd, words, kill_at)
    return os.waitpid(pid, 0)[1]


def _be_program(program: Program, fd: int, words: memoryview, kill_at: int) -> NoReturn:
    try:
        step = program.begin(fd)
        stepper = Stepper(WATCHED, kill_at)
        for number in range(program.steps):
            words[BEGUN] = number + 1
            step(number)
            words[DONE] = number + 1
        words[COUNT] = len(stepper.places)
        for number, (code, offset) in enumerate(stepper.places):
            words[3 + number] = code << 32 | offset
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)
