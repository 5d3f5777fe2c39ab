"""Schedules of a ring's writer and reader: kills alone, one break in every place, chance, weak memory, a hostile writer."""

from __future__ import annotations

import random
from collections import Counter
from functools import cached_property
from typing import Any

from roam.shm.words import MASK
from tests.lanes import Record

from .altered import Code
from .goal import expect
from .loom import GEOMETRIES, LaneLog, Loads, images_of, lane_log, one_break, random_breaks, step_coverage
from .weave import Weave, source_of

__all__ = ["ChanceWeave", "HostileWeave", "KillWeave", "OneBreakWeave", "WeakWeave"]

SPEEDS = (0.02, 0.1, 0.3, 0.8)
BURSTS = (1, 3, 10, 40)
HOSTILE_WORDS = (0, 1, 2, 24, 64, 1 << 32, 1 << 32 | 48, 2 << 32 | 64, 255 << 32 | 64, (1 << 63) - 1, (1 << 64) - 1)


class RingWeave(Weave):
    """What all of them have: a log for each geometry."""

    @cached_property
    def logs(self) -> list[LaneLog]:
        return [lane_log(*geometry, self.code) for geometry in GEOMETRIES]

    @property
    def total(self) -> int | None:
        return None

    def verify(self, log: LaneLog, items: list[Any], next_seq: int, made: int) -> int:
        """Hold what a poll found against the log, of which `made` stores are made. Returns the next sequence."""
        for item in items:
            next_seq = self.follow(log, item, next_seq)
            if isinstance(item, self.code.reader.Gap):
                expect(item.cause == "overwritten", f"{item} of a ring that nobody damaged")
                is_gone = next_seq <= len(log.records) and log.overwritten_after[next_seq - 1] <= made
                expect(is_gone, f"{item}, and after {made} stores some of it is still there")
        expect(next_seq <= log.committed[made], f"{next_seq} records found, {log.committed[made]} committed")
        return next_seq

    def follow(self, log: LaneLog, item: Any, next_seq: int) -> int:
        """What holds on any memory and with any writer: order, no record twice, and contents as they were written."""
        expect(item.first_seq == next_seq, f"{item} where {next_seq} is next: twice, skipped, or out of order")
        expect(item.count > 0, f"nothing is not worth telling: {item}")
        next_seq += item.count
        if not isinstance(item, self.code.reader.Gap):
            genuine: tuple[Record, ...] = log.records[item.first_seq : next_seq]
            expect(tuple(item) == genuine, f"not what was written as {item.first_seq}: {item}")
        return next_seq

    def drain(self, log: LaneLog, reader: Any, loads: Loads, next_seq: int, kill_at: int) -> None:
        """After the writer's death: everything that was committed is delivered or has been overwritten."""
        loads.start(kill_at)
        while items := reader.poll(final=True):
            next_seq = self.verify(log, items, next_seq, kill_at)
        committed = log.committed[kill_at]
        expect(next_seq == committed, f"{next_seq} records delivered or lost of {committed} that were committed")
        counted = reader.delivered + reader.lost
        expect(counted == committed, f"the reader counted {counted} records of {committed} that were committed")


class KillWeave(RingWeave):
    """A kill at every store, and a reader that comes after it: what is in the lane is read by one drain."""

    name = "kill"

    @property
    def total(self) -> int:
        return sum(len(log.images) for log in self.logs)

    @property
    def kills(self) -> int:
        return self.total

    def run(self, number: int, seed: int, counts: Counter[str]) -> int:
        for log in self.logs:
            if number < len(log.images):
                break
            number -= len(log.images)
        loads = Loads(log.images)
        loads.start(number)
        reader = log.new_reader(self.code, loads)
        items = reader.poll(final=True)
        self.verify(log, items, 0, number)
        committed = log.committed[number]
        expected = [
            record for record in log.records[:committed] if log.overwritten_after[record[0]] > number
        ]  # what no later page has taken the place of
        found = [record for item in items if not isinstance(item, self.code.reader.Gap) for record in item]
        expect(found == expected, f"{len(found)} records found in one drain, {len(expected)} are there")
        expect(not reader.poll(final=True), "a second drain found more")
        measured = tuple(reader.measure())
        expect(measured == (committed, 0, 0), f"{measured} measured of {committed} records")
        self._check_heads(log, number)
        step_coverage(counts, log, number)
        counts["kills at every store"] += 1
        return 1

    @staticmethod
    def _check_heads(log: LaneLog, kill_at: int) -> None:
        """Every page that is valid says how many records it has, and which is the first."""
        page_nos = log.page_nos[: log.committed[kill_at]]
        image = log.images[kill_at]
        for at in range(0, len(image), log.lane.page_bytes):
            page_no, first_seq, commit = (int.from_bytes(image[at + k : at + k + 8], "little") for k in (0, 8, 16))
            if page_no:
                truth = (sum(other < page_no for other in page_nos), page_nos.count(page_no))
                expect((first_seq, commit >> 32) == truth, f"page {page_no} says {(first_seq, commit >> 32)}: {truth}")


class OneBreakWeave(RingWeave):
    """One poll with one break, in every place: before the reader's load p the writer gets from its store `start` to
    its store `stop`, and is killed at any store from there on. All p and all kills are one number.

    A reader that stands where another stood before, having found the same, goes on in the same way: the drains are
    run once for each such state and kill.
    """

    name = "one break"

    def __init__(self, code: Code) -> None:
        super().__init__(code)
        self._drained_from: dict[tuple[object, ...], int] = {}

    @cached_property
    def _numbers(self) -> list[tuple[LaneLog, int, int]]:
        return [
            (log, start, stop)
            for log in self.logs
            for start in range(len(log.stores))
            for stop in range(start + 1, len(log.stores) + 1)
        ]

    @property
    def total(self) -> int:
        return len(self._numbers)

    def run(self, number: int, seed: int, counts: Counter[str]) -> int:
        log, start, stop = self._numbers[number]
        loads = Loads(log.images)
        reader = log.new_reader(self.code, loads)
        fresh = vars(reader).copy()
        load = ran = 0
        while True:
            vars(reader).update(fresh)
            loads.start(start, one_break(load, stop))
            items = reader.poll()
            if loads.at == start:
                break
            next_seq = self.verify(log, items, 0, stop)
            state = vars(reader) | {"_survivors": None, "_resumes_left": 0}  # which every poll sets anew
            place = (value for name, value in state.items() if name != "_read")
            where = (id(log), *place, *((item.first_seq, item.count, type(item)) for item in items))
            never_drained = self._drained_from.get(where, len(log.images))
            for kill_at in range(stop, never_drained):
                vars(reader).update(state)
                self.drain(log, reader, loads, next_seq, kill_at)
                counts["distinct drains"] += 1
            self._drained_from[where] = min(stop, never_drained)
            load += 1
            ran += 1
        counts["one break x kill"] += load * (len(log.images) - stop)
        counts["breaks within a copy"] += loads.within_a_copy
        return ran


class ChanceWeave(RingWeave):
    """Several polls while the writer writes, fast or slow, then its death at any store."""

    name = "chance"

    def run(self, number: int, seed: int, counts: Counter[str]) -> int:
        source = source_of(seed, number)
        log = self.logs[number % len(self.logs)]
        kill_at = number // len(self.logs) % len(log.images)
        loads = Loads(log.images)
        start = source.randrange(kill_at + 1) if number & 1 else 0
        loads.start(start, random_breaks(source, start, kill_at, source.choice(SPEEDS), source.choice(BURSTS)))
        reader = log.new_reader(self.code, loads)
        next_seq = 0
        for _ in range(source.choice((1, 2, 5, 12))):
            next_seq = self.verify(log, reader.poll(), next_seq, loads.at)
            if number % 4 == 0:
                self._check_measure(log, reader, loads)
        self.drain(log, reader, loads, next_seq, kill_at)
        counts["laps"] += bool(reader.lost)
        counts["records delivered"] += reader.delivered
        counts["page turns"] += reader._page_no - 1
        counts["breaks within a copy"] += loads.within_a_copy
        step_coverage(counts, log, kill_at)
        return 1

    @staticmethod
    def _check_measure(log: LaneLog, reader: Any, loads: Loads) -> None:
        """The headers say how many records there are, wherever the writer stands."""
        emitted, resident, overwritten = loads.at_rest(reader.measure)
        expect(emitted == log.committed[loads.at], f"{emitted} measured, {log.committed[loads.at]} committed")
        here = sum(after > loads.at for after in log.overwritten_after[reader.next_seq : emitted])
        expect(resident == here, f"{resident} measured, {here} are there")
        expect(emitted == reader.delivered + reader.lost + resident + overwritten, "the numbers do not add up")


class HasteWeave(ChanceWeave):
    """As `ChanceWeave`, with a reader that looks at all pages whenever the one that it waits for is not there."""

    name = "haste"
    retries = 1


class ShippedPatienceWeave(ChanceWeave):
    """As `ChanceWeave`, with a reader that gives damage as much time as it does in life."""

    name = "patience"
    retries = None


class WeakWeave(RingWeave):
    """A machine on which any store may pass any other, but none to the same word, and copies go in either direction.

    The shipped writer has no fence, so nothing else is in a store's way; after the writer's death all that it stored
    is there. Promised, and asserted, is this: what is delivered is byte for byte a record that was begun, under its
    own sequence; sequences only grow, so that none is delivered twice; and nothing raises. Not promised is the
    accounting: a gap may stand for records that are still there, or for more or fewer than there were, and a record
    may be delivered whose commit word was never stored.
    """

    name = "weak memory"

    def run(self, number: int, seed: int, counts: Counter[str]) -> int:
        source = source_of(seed, number)
        log = self.logs[number % len(self.logs)]
        kill_at = source.randrange(len(log.images))
        loads = Loads(images_of(_permuted(log.stores[:kill_at], source), log.lane.size))
        loads.is_backward = source.random() < 0.5
        loads.start(0, random_breaks(source, 0, kill_at, source.choice(SPEEDS), source.choice(BURSTS)))
        reader = log.new_reader(self.code, loads)
        next_seq = 0
        for is_final in (False,) * source.choice((1, 3, 8)) + (True,) * 3:
            if is_final:
                loads.start(kill_at)
            for item in reader.poll(final=is_final):
                next_seq = self.follow(log, item, next_seq)
                if not isinstance(item, self.code.reader.Gap):
                    expect(log.begun_after[next_seq - 1] <= kill_at, f"{item} was never begun")
        counts["records delivered on weak memory"] += reader.delivered
        counts["accounts off on weak memory"] += next_seq != log.committed[kill_at]
        return 1


def _permuted(stores: list[tuple[int, bytes]], source: random.Random) -> list[tuple[int, bytes]]:
    """The stores in another order, in which those to the same word have kept theirs."""
    reach = source.choice((3.0, 10.0, 40.0, 200.0))
    latest: dict[int, float] = {}
    keyed = []
    for number, (offset, data) in enumerate(stores):
        word = offset >> 3
        latest[word] = when = max(number + source.random() * reach, latest.get(word, 0.0))
        keyed.append((when, number, (offset, data)))
    return [store for _, _, store in sorted(keyed)]


class HostileWeave(RingWeave):
    """A writer that stores anything anywhere between stores that are sound. Only safety is asserted: nothing raises, a
    poll reads so often and no more, and what is delivered is what was written, in order, none of it twice."""

    name = "hostile"

    def run(self, number: int, seed: int, counts: Counter[str]) -> int:
        source = source_of(seed, number)
        log = self.logs[number % len(self.logs)]
        stores = []
        rate = source.choice((0.02, 0.1, 0.5))
        for store in log.stores:
            while source.random() < rate:
                stores.append(_hostile_store(source, log))
            stores.append(store)
        loads = Loads(images_of(stores, log.lane.size))
        loads.start(0, random_breaks(source, 0, len(stores), source.choice(SPEEDS), source.choice(BURSTS)))
        reader = log.new_reader(self.code, loads)
        most_reads = 16 * log.lane.page_count + 32
        next_seq = 0
        for is_final in (False,) * source.choice((1, 4, 10)) + (True,) * 2:
            loads.calls = 0
            for item in reader.poll(final=is_final):
                next_seq = self.follow(log, item, next_seq)
            expect(loads.calls <= most_reads, f"{loads.calls} reads in a poll, and {most_reads} is the limit")
            expect(min(reader.measure()) >= 0, "less than nothing was measured")
        counts["records delivered by a hostile writer"] += reader.delivered
        return 1


def _hostile_store(source: random.Random, log: LaneLog) -> tuple[int, bytes]:
    """Into the heads of pages and records mostly: a number that means something there, something stored elsewhere,
    what belongs there, and a little more or less; or anything."""
    place = source.randrange(0, log.lane.size, 8)
    kind = source.randrange(4)
    if kind == 0:
        value = source.getrandbits(64)
    elif kind == 1:
        place, data = source.choice(log.stores)
        place &= ~7
        value = (int.from_bytes(data, "little") + source.choice((-4, -3, -2, -1, 1, 2, 3, 4))) & MASK
    else:
        place = place // log.lane.page_bytes * log.lane.page_bytes + source.choice((0, 8, 16, 24, 32))
        value = source.choice(HOSTILE_WORDS) if kind == 2 else int.from_bytes(source.choice(log.stores)[1], "little")
    return place, value.to_bytes(8, "little")
