"""Subscribing at a host: what is kept and what comes, in order, with its gaps, until the host ends."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import pytest

import roam
from roam.errors import FilterError, HostClosed
from roam.testing import InProcessCell
from roam.tracing.host import TracingHost
from tests.hosting import arrived, balances, in_process, messages
from tests.support import wait_until

SMALL = roam.SegmentConfig(page_bytes=4096, record_bytes=1024, life_pages=2, vital_pages=2, bulk_pages=2)
LARGE = roam.SegmentConfig(life_pages=32)


def test_replay_meets_the_live_records_without_gap_or_repetition():
    """However often somebody subscribes while a cell writes: what is kept, then what comes, each record once."""
    count = 6000
    with in_process(retain_bytes=32 << 20) as (host, cell):

        def write():
            for number in range(count):
                roam.event(30 if number % 5 == 0 else 20, "numbered", n=number)

        writer = threading.Thread(target=write)
        writer.start()
        streams = []
        while writer.is_alive() or len(streams) < 5:
            streams.append(host.subscribe(capacity=10 * count, replay=True))
            time.sleep(0.002)
        writer.join()
        kept = arrived(cell, count)
        # Deliveries follow the collection that `arrived` sees.
        for stream in streams:
            wait_until(lambda stream=stream: stream.statistics().offered >= count)
        host.close()
        lost = sum(lane.lost for lane in cell.statistics().lanes.values())
        for stream in streams:
            numbers = [each.record.fields["n"] for each in stream if each.record.kind == "event"]
            assert len(numbers) == len(set(numbers)) == count - lost
            assert len(kept) >= count - lost
            assert balances(stream)
    assert len(streams) >= 5


def test_a_peer_that_is_registered_while_somebody_subscribes_is_not_missed():
    """Records of a cell that was made after the list of peers was taken come all the same: live."""
    with TracingHost(forward=False) as host:
        real = host._fan_out._lock

        class Slow:
            """Makes a cell, and lets it write, while the subscriber waits for the lock."""

            def __enter__(self):
                host._fan_out._lock = real
                with InProcessCell(host, "late") as cell:
                    roam.info("from a late cell")
                    arrived(cell, 1)
                return real.__enter__()

            def __exit__(self, *ended):
                return real.__exit__(*ended)

        host._fan_out._lock = Slow()
        records = host.subscribe(replay=True)
        assert messages([records.get(5)]) == ["from a late cell"]
        assert records.get(0) is None


def test_records_come_in_the_order_of_time_over_the_lanes():
    """Warnings, exceptions and details of one peer arrive in the order they were written in, replayed or live."""
    count = 3000
    with in_process(roam.TracingConfig("debug"), retain_bytes=64 << 20, segment=LARGE) as (host, cell):
        live = host.subscribe(capacity=100_000)
        for number in range(count):
            if number % 7 == 0:
                roam.info("bad", n=number, exc_info=ValueError())
            else:
                roam.event(30 if number % 3 else 10, "step", n=number)
            if number % 500 == 0:
                # So that it is collected in several pieces.
                time.sleep(0.006)
        arrived(cell, count)
        wait_until(lambda: live.statistics().offered >= count)
        replayed = host.subscribe(capacity=100_000, replay=True)
        host.close()
        for stream in (live, replayed):
            found = [each.record for each in stream]
            assert [record.fields["n"] for record in found] == list(range(count))
            assert {record.lane for record in found} == {"life", "vital", "bulk"}


def test_a_record_waits_for_older_company_from_another_lane():
    """What is written while the lanes are read one after the other comes in order all the same; a replay at that very
    moment neither repeats nor misses it."""
    with TracingHost(forward=False) as host, InProcessCell(host, "cell") as cell, host.subscribe() as live:
        link = next(link for link in host._peers.all if link.peer == cell.peer)
        bulk = link._readers[2]
        real, late = bulk.poll, []

        def poll(**how):
            # The lane of warnings was read already.
            del bulk.poll
            roam.warning("first")
            roam.info("second")
            return real(**how)

        def collect():
            bulk.poll = poll
            host._deliver(link, link.collect(), False)
            late.append(host.subscribe(replay=True))

        host._collector.ask(collect, 10)
        roam.info("third")
        for records in (live, *late):
            assert [records.get(10).record.message for _ in range(3)] == ["first", "second", "third"]
            assert records.get(0) is None


def test_a_slow_subscriber_hurts_nobody():
    """One that never reads drops its own; another gets everything, and so does the host."""
    with in_process(retain_bytes=8 << 20) as (host, cell):
        never = host.subscribe(capacity=10)
        reader = host.subscribe(capacity=100_000)
        for number in range(2000):
            roam.info("step", n=number)
        arrived(cell, 2000)
        wait_until(lambda: reader.statistics().offered == 2000)
        found = never.statistics()
        assert (found.offered, found.dropped_by_queue, found.queued) == (2000, 1990, 10)
        assert reader.statistics().dropped_by_queue == 0
        assert [never.get(0).record.fields["n"] for _ in range(10)] == list(range(1990, 2000))


def test_a_gap_shows_in_its_place():
    """What was overwritten before the host came is one notice, between the records around it, with the exact number."""
    with in_process(segment=SMALL) as (host, cell), host.subscribe(capacity=100_000) as records:
        roam.info("before", n=-1)
        arrived(cell, 1)
        block = threading.Event()
        host._collector.call(lambda: block.wait(10))
        for number in range(1000):
            roam.info("step", n=number)
        block.set()
        statistics = cell.statistics()
        arrived(cell)
        host.close()
        found = [each.record for each in records]
    assert statistics.lanes["bulk"].emitted == 1001
    assert [record.kind for record in found[:3]] == ["event", "lost", "event"]
    lost = found[1]
    assert (lost.lane, lost.cause, lost.first_seq) == ("bulk", "overwritten", 1)
    assert lost.count == found[2].seq - 1
    assert 1 + lost.count + len(found[2:]) == 1001
    assert [record.time_ns for record in found] == sorted(record.time_ns for record in found)


def test_iteration_ends_with_the_host():
    """Who waits, in a thread or in a loop, is let go when the host closes; the counts stay."""
    host = TracingHost(forward=False)
    first, second = host.subscribe(), host.subscribe(replay=True)
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.extend(first))
    waiting.start()

    async def main():
        closer = threading.Thread(target=host.close)
        roam.info("last")
        closer.start()
        messages_found = [each.record.message async for each in second]
        await asyncio.to_thread(closer.join)
        return messages_found

    assert asyncio.run(main()) == ["last"]
    waiting.join(10)
    assert not waiting.is_alive()
    assert messages(found) == ["last"]
    with pytest.raises(HostClosed):
        host.subscribe()


def test_a_subscription_that_comes_too_late_is_refused():
    """One that is made while the host closes does not wait for ever."""
    host = TracingHost(forward=False)
    host._fan_out.close()
    try:
        with pytest.raises(HostClosed):
            host.subscribe()
    finally:
        host.close()


def test_a_closed_subscription_is_forgotten():
    """Leaving its block ends it: the host offers it nothing more."""
    with in_process() as (host, cell):
        with host.subscribe() as records:
            roam.info("one")
            assert records.get(5).record.message == "one"
        roam.info("two")
        arrived(cell, 2)
        assert records.statistics().offered == 1
        assert host._fan_out._subscriptions == []


def test_misuse_is_refused():
    """A capacity below 1 and a filter that does not parse are errors at the call."""
    with TracingHost(forward=False) as host:
        with pytest.raises(ValueError, match="capacity=0"):
            host.subscribe(capacity=0)
        with pytest.raises(FilterError, match="column 5"):
            host.subscribe("app=loud")
        assert host._fan_out._subscriptions == []


def test_a_forked_child_is_not_kept_waiting():
    """In a forked child the stream has ended, also if another thread of the parent held its lock."""
    with TracingHost(forward=False) as host:
        records = host.subscribe()
        with records._ready:
            pid = os.fork()
            if pid == 0:
                os._exit(7 if list(records) == [] and balances(records) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
