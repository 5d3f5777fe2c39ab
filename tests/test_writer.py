"""The one writer of a segment: order, drops, acknowledgements, doorbell, threads.

What happens when it is entered twice, or left by an exception, is in `test_writer_interrupted.py`; forks are in
`test_writer_forks.py`.
"""

from __future__ import annotations

import json
import sys
import threading
import time

import pytest

from roam.shm.layout import (
    BULK,
    LIFE,
    VITAL,
    HostWord,
    SegmentConfig,
    StatusWord,
)
from roam.shm.outcome import Outcome
from roam.shm.writer import NESTED_LIMIT
from tests.lanes import Bench, told


def test_records_are_ordered_over_all_lanes():
    """Each lane counts its own sequence; the clock of a later record is larger, whatever the machine's clock does."""
    clock = iter([100, 100, 90, 2**40, 5, 2**41] * 10)
    bench = Bench(clock=lambda: next(clock))
    lanes = [BULK, LIFE, VITAL, BULK, VITAL, LIFE] * 10
    for number, lane in enumerate(lanes):
        assert Outcome.WRITTEN == bench.writer.write(lane, b"%d" % number, 0)
    found = {lane: bench.poll(lane) for lane in (LIFE, VITAL, BULK)}

    assert all([seq for seq, _, _ in records] == list(range(20)) for records in found.values())
    by_time = sorted((time_ns, payload) for records in found.values() for _, time_ns, payload in records)
    assert [b"%d" % number for number in range(60)] == [payload for _, payload in by_time]
    assert 60 == len({time_ns for time_ns, _ in by_time})
    assert by_time[-1][0] == bench.words[StatusWord.HEARTBEAT]


# r[verify shm.config.judged]
def test_what_an_older_configuration_judged_is_not_written():
    """A record that was judged by another generation than the one in force is stale, and changes nothing."""
    bench = Bench()
    assert Outcome.WRITTEN == bench.writer.write(BULK, b"by 0", 0)
    bench.words[HostWord.GENERATION] = 1
    before = bench.mapping[:]
    assert Outcome.STALE == bench.writer.write(BULK, b"by 0", 0)
    assert Outcome.STALE == bench.writer.write(BULK, b"by 2", 2)
    assert before == bench.mapping[:]
    assert Outcome.WRITTEN == bench.writer.write(BULK, b"by 1", 1)

    assert [b"by 0", b"by 1"] == bench.payloads()


# r[verify shm.config.judged]
def test_only_the_generation_in_force_is_acknowledged():
    """An acknowledgement that comes too late for its generation is not stored."""
    bench = Bench()
    bench.words[HostWord.GENERATION] = 2
    bench.writer.acknowledge(1)
    assert 0 == bench.words[StatusWord.ACKNOWLEDGED]
    bench.writer.acknowledge(2)
    assert 2 == bench.words[StatusWord.ACKNOWLEDGED]


# r[verify shm.config.judged]
def test_an_acknowledgement_waits_for_what_was_judged_before():
    """A configuration that is taken inside a record's critical section is acknowledged behind that record and those
    that wait for it; nested records that were judged before it are stale from then on."""
    steps = []

    def clock():
        if bench.words[HostWord.GENERATION] == 0 and not steps:
            steps.append(bench.writer.write(BULK, b"nested by 0", 0))
            bench.words[HostWord.GENERATION] = 1
            bench.writer.acknowledge(1)
            steps.append(bench.words[StatusWord.ACKNOWLEDGED])
            steps.append(bench.writer.write(BULK, b"late by 0", 0))
            steps.append(bench.writer.write(BULK, b"nested by 1", 1))
        return time.monotonic_ns()

    bench = Bench(clock=clock)
    assert Outcome.WRITTEN == bench.writer.write(BULK, b"outer by 0", 0)
    assert [Outcome.WRITTEN, 0, Outcome.STALE, Outcome.WRITTEN] == steps
    assert 1 == bench.words[StatusWord.ACKNOWLEDGED]
    assert [b"outer by 0", b"nested by 0", b"nested by 1"] == bench.payloads()


# r[verify shm.dropped.announced]
def test_drops_are_counted_and_told_at_their_place():
    """What was dropped stands in the words at once, by lane and cause, and in a record before the lane's next one."""
    bench = Bench()
    bench.writer.write(BULK, b"first", 0)
    for cause in ("oversize", "newest", "oversize"):
        bench.writer.drop(BULK, cause)
    bench.writer.drop(LIFE, "unencodable")
    assert {"newest": 1, "oversize": 2} == bench.dropped()
    assert {} == bench.announced()
    bench.writer.write(BULK, b"second", 0)
    bench.writer.write(BULK, b"third", 0)
    bench.writer.drop(BULK, "oversize")
    bench.writer.write(BULK, b"fourth", 0)
    found = bench.payloads()

    assert [b"first", b"second", b"third", b"fourth"] == [body for body in found if not body.startswith(b"dropped")]
    assert {"newest": 1, "oversize": 2} == json.loads(found[1][8:])
    assert {"oversize": 1} == json.loads(found[4][8:])
    assert bench.announced() == bench.dropped() == told(found) == {"newest": 1, "oversize": 3}
    assert ({"unencodable": 1}, {}) == (bench.dropped(LIFE), bench.announced(LIFE))


def test_what_no_page_can_hold_is_dropped_as_oversize():
    """A body larger than a page is refused and counted, and costs its neighbours nothing."""
    bench = Bench()
    bench.writer.write(BULK, b"before", 0)
    assert Outcome.DROPPED == bench.writer.write(BULK, b"x" * 1024, 0)
    bench.writer.write(BULK, b"after", 0)
    assert [b"before", b"after"] == [body for body in bench.payloads() if not body.startswith(b"dropped")]
    assert {"oversize": 1} == bench.dropped() == bench.announced()


# r[verify shm.dropped.announced]
def test_drops_while_drops_are_told_are_told_next():
    """A drop that happens while the record about earlier drops is made is neither lost nor told twice."""
    left = [3]

    def encode(counts):
        if left[0]:
            left[0] -= 1
            bench.writer.drop(BULK, "nested")
            bench.writer.drop(BULK, "newest")
        return b"dropped " + json.dumps(counts).encode()

    bench = Bench(encode_dropped=encode)
    bench.writer.drop(BULK, "newest")
    for number in range(6):
        bench.writer.write(BULK, b"%d" % number, 0)

    assert {"newest": 4, "nested": 3} == bench.dropped() == bench.announced() == told(bench.payloads())


def test_nested_records_follow_the_outer_one():
    """Records of nested calls are written by the outer call, in their order and in their lanes, up to a limit; the
    others are counted."""
    answers = []

    def clock():
        if not answers:
            answers.append(None)
            answers[:] = [bench.writer.write(VITAL if n % 2 else BULK, b"%d" % n, 0) for n in range(NESTED_LIMIT + 5)]
        return time.monotonic_ns()

    bench = Bench(clock=clock)
    assert Outcome.WRITTEN == bench.writer.write(BULK, b"outer", 0)
    assert [Outcome.WRITTEN] * NESTED_LIMIT + [Outcome.DROPPED] * 5 == answers
    found, vital = bench.payloads(), bench.payloads(VITAL)
    assert [b"outer", *(b"%d" % n for n in range(0, NESTED_LIMIT, 2))] == [body for body in found if body[:2] != b"dr"]
    assert [b"%d" % n for n in range(1, NESTED_LIMIT, 2)] == [body for body in vital if body[:2] != b"dr"]
    assert told(found) == bench.announced() == bench.dropped()
    assert told(vital) == bench.announced(VITAL) == bench.dropped(VITAL)
    assert 5 == bench.dropped().get("nested", 0) + bench.dropped(VITAL).get("nested", 0)
    assert bench.words[StatusWord.HEARTBEAT] == bench.writer._last_ns


# r[verify shm.doorbell.once]
def test_the_doorbell_rings_once_for_each_parked_number():
    """No ring while the host is awake; one, after the commit, for each time it went to sleep."""
    seen = []
    bench = Bench(ring=lambda: seen.append((bench.words[HostWord.PARKED], len(bench.poll()))))
    for parked in (0, 0, 1, 1, 1, 7, 7, 0, 0, 8):
        bench.words[HostWord.PARKED] = parked
        bench.writer.write(BULK, b"record", 0)

    assert [1, 7, 8] == [parked for parked, _ in seen if parked]
    assert all(count for _, count in seen), "the record was there before the ring"
    assert len(seen) <= 4


def test_threads_write_whole_records_in_their_order():
    """Records of many threads are all there, each thread's in its order, with one sequence without a gap."""
    bench = Bench(SegmentConfig(page_bytes=32768, bulk_pages=32, life_pages=2, vital_pages=2, span_slots=1))
    found, go = [], threading.Event()

    def work(name):
        go.wait(10)
        for number in range(1500):
            if number % 50 == 0:
                bench.writer.drop(BULK, "sampled")
            assert Outcome.WRITTEN == bench.writer.write(BULK, b"%d %d" % (name, number), 0)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
        for thread in threads:
            thread.start()
        go.set()
        while any(thread.is_alive() for thread in threads):
            found += bench.poll()
    finally:
        sys.setswitchinterval(interval)
    found += bench.poll()
    payloads = [payload for _, _, payload in found]
    pairs = [tuple(map(int, payload.split())) for payload in payloads if not payload.startswith(b"dropped")]

    assert list(range(len(found))) == [seq for seq, _, _ in found]
    assert sorted(time_ns for _, time_ns, _ in found) == [time_ns for _, time_ns, _ in found]
    for name in range(6):
        assert list(range(1500)) == [number for who, number in pairs if who == name]
    assert bench.dropped() == {"sampled": 6 * 30}
    rest = bench.dropped()["sampled"] - bench.announced().get("sampled", 0)
    assert {"sampled": 180 - rest} == told(payloads)


def test_a_lock_that_nobody_will_release_is_not_waited_for():
    """While the interpreter ends, a call waits for a frozen thread's lock once, and not for long; its records are
    counted, each in its own lane."""
    bench = Bench()
    held, release = threading.Event(), threading.Event()

    def freeze():
        with bench.writer._lock:
            held.set()
            release.wait(60)

    frozen = threading.Thread(target=freeze)
    frozen.start()
    held.wait(10)
    bench.writer.finalize()
    started = time.monotonic()
    for _ in range(200):
        assert Outcome.DROPPED == bench.writer.write(VITAL, b"late", 0)
    bench.writer.write(BULK, b"late", 0)
    bench.writer.drop(BULK, "oversize")
    bench.writer.acknowledge(0)
    took_s = time.monotonic() - started
    release.set()
    frozen.join(10)

    assert took_s < 10, "200 times the longest wait would be 20 s"
    assert ({"finalizing": 200}, {"finalizing": 2}) == (bench.dropped(VITAL), bench.dropped(BULK))
    assert Outcome.WRITTEN == bench.writer.write(VITAL, b"free again", 0)
    assert [b'dropped {"finalizing": 200}', b"free again"] == bench.payloads(VITAL)


@pytest.mark.parametrize("parked", [0, 1])
def test_a_call_that_is_not_allowed_to_wait_can_still_nest(parked):
    """The bounded lock is as re-entrant as the other one."""
    done = []

    def clock():
        if not done:
            done.append(bench.writer.write(BULK, b"nested", 0))
        return time.monotonic_ns()

    bench = Bench(clock=clock)
    bench.words[HostWord.PARKED] = parked
    bench.writer.finalize()
    assert Outcome.WRITTEN == bench.writer.write(BULK, b"outer", 0)
    assert [b"outer", b"nested"] == bench.payloads()
    assert parked == bench.rings
