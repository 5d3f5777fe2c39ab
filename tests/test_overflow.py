"""Overflow policies: what happens where a cell writes faster than its host reads, and that all of it is counted."""

from __future__ import annotations

import math
import pickle
import random
import signal
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import roam
from roam.shm.layout import BULK, LANES, HostWord
from roam.shm.outcome import Outcome
from roam.shm.overflow import DROP_NEWEST, DROP_OLDEST, Overflow, parse_overflow
from roam.shm.reader import Gap
from roam.shm.writer import NESTED_LIMIT
from roam.tracing.config import TracingConfig
from roam.tracing.records import Dropped, Lost
from tests import cells
from tests.hosting import holds, in_process
from tests.lanes import Bench, records_of, told
from tests.support import wait_until

WAIT_S = 60.0
SMALL = roam.SegmentConfig(page_bytes=4096, bulk_pages=4, vital_pages=4, record_bytes=1024)
KEEP = {"drop_newest": DROP_NEWEST, "block(0.001)": Overflow(True, 0.001)}


class Reading(Bench):
    """A bench whose reader tells the writer how far it has come, as a host does."""

    def __init__(self, policy, **options):
        super().__init__(**options)
        self.writer.overflow = self.writer.plan_overflow([policy] * len(LANES))
        self.found = []

    def take(self, lane=BULK):
        self.found += self.readers[lane].poll()
        self.words[HostWord.TAKEN + lane] = self.readers[lane].next_seq

    def emit(self, payload, lane=BULK):
        """As an emitter does."""
        deadline = time.monotonic() + self.writer.overflow.policies[lane].wait_s
        while (outcome := self.writer.write(lane, payload, 0)) == Outcome.FULL:
            if not self.writer.await_room(lane, deadline):
                return False
        return outcome == Outcome.WRITTEN


# r[verify shm.overflow.spared]
@pytest.mark.parametrize("policy", KEEP.values(), ids=KEEP)
@pytest.mark.parametrize("seed", range(6))
def test_nothing_that_was_not_taken_is_overwritten(policy, seed):
    """Every record is delivered in order or was refused; a `Dropped` record tells of the refused ones where they are
    missing; the sums are those of the status words."""
    source, bench = random.Random(seed), Reading(policy)
    kept, refused, events = 0, 0, []
    for number in range(3000):
        if source.random() < (0.002, 0.0005, 0.001)[seed % 3]:
            bench.take()
        if bench.emit(b"%d " % number + b"x" * source.randrange(200)):
            kept += 1
            events.append(number)
        else:
            refused += 1
            events.append(None)
    bench.take()
    payloads = [payload for _, _, payload in records_of(bench.found)]

    assert refused
    assert not any(isinstance(item, Gap) for item in bench.found)
    written = [int(payload.split()[0]) for payload in payloads if not payload.startswith(b"dropped ")]
    assert written == [number for number in events if number is not None]
    cause = "timed_out" if policy.wait_s else "newest"
    assert bench.dropped() == {cause: refused}
    assert told(payloads) == bench.announced()
    # What is told before a record is exactly what is missing before it.
    missing, expected = 0, []
    for number in events:
        if number is None:
            missing += 1
        elif missing:
            expected.append(missing)
            missing = 0
    assert [sum(told([payload]).values()) for payload in payloads if payload.startswith(b"dropped ")] == expected
    assert refused == bench.announced().get(cause, 0) + missing


def test_a_full_lane_fills_no_other():
    """Each lane has a policy and a host position of its own."""
    bench = Reading(DROP_NEWEST)
    while bench.emit(b"x" * 100):
        pass
    assert bench.emit(b"vital", lane=1)
    assert bench.emit(b"life", lane=0)
    assert bench.dropped() == {"newest": 1}


def test_after_one_wait_in_vain_records_are_dropped_at_once_until_the_host_moves():
    """The first record waits for all of its time, the following ones not at all, and after a move one waits again."""
    bench = Reading(Overflow(True, 0.2))
    before = time.monotonic()
    while bench.emit(b"x" * 100):
        pass
    assert time.monotonic() - before >= 0.2
    before = time.monotonic()
    for _ in range(100):
        assert not bench.emit(b"x" * 100)
    assert time.monotonic() - before < 0.2
    bench.take()
    while bench.emit(b"x" * 100):
        before = time.monotonic()
    assert time.monotonic() - before >= 0.2
    assert bench.dropped() == {"timed_out": 102}


def test_a_blocked_record_is_written_when_the_host_takes_something():
    """It waits no longer than that, rings a host that has parked meanwhile, and nothing is dropped."""
    bench = Reading(Overflow(True, 30.0))
    count = 0
    while bench.writer.write(BULK, b"x" * 100, 0) == Outcome.WRITTEN:
        count += 1
    blocked = threading.Thread(target=bench.emit, args=(b"late" * 25,))
    blocked.start()
    bench.words[HostWord.PARKED] = 7
    wait_until(lambda: bench.rings)
    assert blocked.is_alive()
    bench.take()
    blocked.join(10.0)
    assert not blocked.is_alive()
    bench.take()
    assert [payload for _, _, payload in records_of(bench.found)] == [b"x" * 100] * count + [b"late" * 25]
    assert bench.dropped() == {}
    assert bench.rings == 1


def test_a_nested_call_never_waits():
    """A record made inside of another's critical section, and that finds the lane full, is counted as timed out."""
    bench = Reading(Overflow(True, 30.0))
    while bench.writer.write(BULK, b"x" * 100, 0) == Outcome.WRITTEN:
        pass
    bench.take()
    nested = []

    def clock():
        if not nested:
            nested.append(1)
            for _ in range(NESTED_LIMIT):
                bench.writer.write(BULK, b"y" * 500, 0)
        return time.monotonic_ns()

    bench.writer._clock = clock
    before = time.monotonic()
    assert bench.writer.write(BULK, b"outer", 0) == Outcome.WRITTEN
    while bench.dropped().get("timed_out", 0) == 0:
        nested.clear()
        bench.writer.write(BULK, b"outer", 0)
    assert time.monotonic() - before < 15.0


def test_a_signal_handler_that_raises_ends_the_wait():
    """Ctrl-C gets out of a blocked emit; the record is counted."""

    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    bench = Reading(Overflow(True, 60.0))
    while bench.writer.write(BULK, b"x" * 100, 0) == Outcome.WRITTEN:
        pass
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(Stop):
            bench.emit(b"late" * 25)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert bench.dropped() == {"timed_out": 1}


def test_a_change_of_policy_takes_effect_at_once():
    """From sparing to overwriting and back, in the middle of a full lane."""
    bench = Reading(DROP_NEWEST)
    while bench.emit(b"x" * 100):
        pass
    same = bench.writer.plan_overflow([DROP_NEWEST] * len(LANES))
    assert same is bench.writer.overflow, "an equal policy keeps what is known"
    bench.writer.overflow = bench.writer.plan_overflow([DROP_OLDEST] * len(LANES))
    assert all(bench.emit(b"y" * 100) for _ in range(3000))
    bench.writer.overflow = bench.writer.plan_overflow([DROP_NEWEST] * len(LANES))
    assert not all(bench.emit(b"z" * 100) for _ in range(100))


def test_a_policy_that_changes_while_a_record_is_tried_costs_no_count():
    """A thread takes another configuration between the refusal and the count of it."""
    bench = Reading(DROP_NEWEST)
    while bench.emit(b"x" * 100):
        pass
    planned = bench.writer.plan_overflow([DROP_OLDEST] * len(LANES))

    def refused(*_):
        bench.writer.overflow = planned
        return False

    bench.writer.overflow.appends[BULK] = refused
    bench.writer.overflow.full_at[BULK] = -1
    bench.writer._untold[BULK] = False
    assert bench.writer.write(BULK, b"y" * 100, 0) == Outcome.DROPPED
    assert bench.dropped() == {"newest": 2}


def test_many_threads_that_block_wait_as_long_as_they_may():
    """Others take the room that a thread has waited for, again and again; it is not given up for that."""
    config = TracingConfig("debug", overflow={"bulk": "block(30)"})
    with in_process(config, segment=SMALL, retain_bytes=4 << 20) as (_, cell):
        threads = [threading.Thread(target=lambda: [roam.debug("x" * 200) for _ in range(200)]) for _ in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: cell.statistics().lanes["bulk"].resident == 0)
        bulk = cell.statistics().lanes["bulk"]
    assert (bulk.emitted, bulk.delivered, bulk.lost, bulk.dropped) == (4800, 4800, 0, {})


# The configuration.

waits = st.floats(min_value=0, max_value=3600, exclude_min=True)


@given(st.sampled_from([DROP_OLDEST, DROP_NEWEST]) | waits.map(lambda wait_s: Overflow(True, wait_s)))
def test_the_text_of_a_policy_parses_back(policy):
    """Also of very short and very long waits."""
    assert parse_overflow(str(policy)) == policy


@pytest.mark.parametrize(
    "text", ["", "drop", "block", "block()", "block(0)", "block(-1)", "block(3601)", "block(e)", "block(1e999)"]
)
def test_what_is_no_policy_is_refused(text):
    """At the call, with the policies that there are."""
    with pytest.raises(ValueError, match="overflow"):
        TracingConfig("info", overflow=text)
    with pytest.raises(ValueError, match="overflow"):
        TracingConfig("info", overflow={"bulk": text})


def test_a_lane_that_does_not_exist_is_refused():
    """By name, with those that do."""
    with pytest.raises(ValueError, match="life, vital, bulk"):
        TracingConfig("info", overflow={"big": "drop_newest"})


def test_policies_travel_with_the_configuration():
    """To the cell, and through pickle."""
    config = TracingConfig("info", overflow={"bulk": "block(0.25)", "vital": "drop_newest"})
    assert config.overflow == (DROP_OLDEST, DROP_NEWEST, Overflow(True, 0.25))
    assert TracingConfig.from_bytes(config.to_bytes()) == config == pickle.loads(pickle.dumps(config))
    assert TracingConfig("info", overflow="drop_newest").overflow == (DROP_NEWEST,) * 3


# Real processes.


# r[verify shm.overflow.spared]
@pytest.mark.parametrize("policy", ["drop_newest", "block(0.5)"])
def test_a_flooding_cell_loses_nothing_that_it_has_written(policy, tmp_path):
    """Far more than the ring holds: what was written arrives, and what was not is told of in the stream."""
    config = TracingConfig("debug", overflow=policy)
    with roam.TracingHost(config, dump_dir=tmp_path, forward=False, segment=SMALL) as host:
        subscription = host.subscribe(capacity=200_000)
        cell = roam.spawn_cell(cells.flood_with_details, 30_000, host=host)
        assert cell.join(WAIT_S) is not None
        statistics = cell.statistics()
        records = []
        while (tagged := subscription.get(0.0)) is not None:
            records.append(tagged.record)

    bulk = statistics.lanes["bulk"]
    assert holds(statistics)
    assert (bulk.lost, bulk.resident) == (0, 0)
    numbers = [record.fields["number"] for record in records if record.kind == "event" and record.message == "detail"]
    assert numbers == sorted(numbers)
    dropped = sum(sum(record.counts.values()) for record in records if isinstance(record, Dropped))
    at_death = sum(record.count for record in records if isinstance(record, Lost))
    assert dropped + at_death == sum(bulk.dropped.values())
    assert len(numbers) + sum(bulk.dropped.values()) == 30_000
    if policy == "drop_newest":
        assert set(bulk.dropped) == {"newest"}
        assert len({count for record in records if isinstance(record, Dropped) for count in record.counts.values()}) > 1


def test_a_stopped_host_costs_one_wait():
    """With nobody reading an emit waits once, then never again; what was dropped is told of when the host goes on."""
    config = TracingConfig("debug", overflow={"bulk": "block(0.3)"})
    with in_process(config, segment=SMALL) as (host, cell):
        done, entered = threading.Event(), threading.Event()

        def hold() -> None:
            entered.set()
            done.wait(WAIT_S)

        host._collector.call(hold)
        assert entered.wait(WAIT_S)
        before = time.monotonic()
        for number in range(3000):
            roam.debug("detail", number=number)
        took = time.monotonic() - before
        done.set()
        wait_until(lambda: cell.statistics().lanes["bulk"].resident == 0)
        roam.debug("last")
        wait_until(lambda: any(record.kind == "dropped" for record in cell.records()))
        found, statistics = list(cell.records()), cell.statistics()

    assert 0.3 <= took
    bulk = statistics.lanes["bulk"]
    kept = [record for record in found if record.kind == "event"]
    assert bulk.lost == 0
    assert bulk.dropped == {"timed_out": 3001 - len(kept)}
    assert math.isclose(sum(r.counts["timed_out"] for r in found if r.kind == "dropped"), bulk.dropped["timed_out"])
    assert kept[-1].message == "last"


@pytest.mark.slow
def test_a_wait_in_vain_is_no_longer_than_a_sleep():
    """At p99 a blocked emit overshoots its time by no more than a bare sleep of that length beside it, and 5 ms."""
    wait_s, blocked, slept = 0.02, [], []
    bench = Reading(Overflow(True, wait_s))
    for _ in range(200):
        while True:
            before = time.monotonic()
            if not bench.emit(b"x" * 100):
                blocked.append(time.monotonic() - before - wait_s)
                break
        bench.take()
        before = time.monotonic()
        time.sleep(wait_s)
        slept.append(time.monotonic() - before - wait_s)

    assert min(blocked) >= 0
    assert sorted(blocked)[197] <= sorted(slept)[197] + 0.005
