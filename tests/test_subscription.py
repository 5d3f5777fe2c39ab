"""Subscriptions: bounded queues that never lose count, and never hold anybody up."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import roam
from roam.errors import FilterError, HostClosed
from roam.testing import InProcessCell
from roam.tracing.filter import Filter
from roam.tracing.host import TracingHost
from roam.tracing.records import Dropped, Event, Lost, Peer, SpanEnter, TaggedRecord
from roam.tracing.subscription import Subscription
from tests.hosting import arrived, in_process, messages
from tests.support import wait_until

PEER = Peer(1, 1, "cell", 2)
SMALL = roam.SegmentConfig(page_bytes=4096, record_bytes=1024, life_pages=2, vital_pages=2, bulk_pages=2)
LARGE = roam.SegmentConfig(life_pages=32)


def tagged(number, level=20, target="app"):
    """A record with a number."""
    return TaggedRecord(PEER, Event(level, target, str(number), {}, 1, b"s" * 8, b"t" * 16, seq=number))


def make(filter=None, capacity=10):
    """A subscription without a host."""
    return Subscription(None if filter is None else Filter(filter), capacity, lambda _: None)


def balances(subscription):
    """Whether the count of records is right at this moment."""
    found = subscription.statistics()
    return found.offered == found.received + found.dropped_by_queue + found.queued


# The queue by itself


@given(st.integers(1, 20), st.lists(st.integers(0, 30) | st.none(), max_size=30))
def test_the_oldest_go_when_it_is_full(capacity, steps):
    """Against a plain model: a number offers as many records, None receives one."""
    # r[verify trace.subscription.bounded]
    subscription = make(capacity=capacity)
    model, number, received, dropped = [], 0, 0, 0
    for step in steps:
        if step is None:
            found = subscription.get(0)
            assert (None if found is None else found.record.seq) == (model.pop(0) if model else None)
            received += found is not None
        else:
            subscription.offer([tagged(number + index) for index in range(step)])
            model += range(number, number + step)
            number += step
            excess = max(0, len(model) - capacity)
            del model[:excess]
            dropped += excess
        found = subscription.statistics()
        assert (found.offered, found.received, found.dropped_by_queue, found.queued) == (
            number,
            received,
            dropped,
            len(model),
        )
    subscription.end()
    assert [each.record.seq for each in subscription] == model


def test_the_filter_decides_what_is_offered():
    """What does not pass is not counted; notices of loss always pass; spans are judged like events."""
    subscription = make("warning,app=info,app.noisy=off")
    records = [
        tagged(0, 10),
        tagged(1, 20),
        tagged(2, 50, "app.noisy.x"),
        tagged(3, 20, "other"),
        tagged(4, 30, "other"),
        TaggedRecord(PEER, SpanEnter(20, "app", "span", {}, 1, b"s" * 8, b"t" * 16)),
        TaggedRecord(PEER, Lost("bulk", 7, 3, "overwritten")),
        TaggedRecord(PEER, Dropped({"oversize": 1})),
    ]
    subscription.offer(records)
    subscription.end()

    assert subscription.statistics().offered == 5
    assert [each.record for each in subscription] == [records[index].record for index in (1, 4, 5, 6, 7)]


def test_counts_balance_at_every_moment_under_threads():
    """Several threads offer, several receive, one only looks: nothing is counted twice, lost, or delivered twice."""
    subscription = make(capacity=50)
    offered_each, offerers = 4000, 2
    received: list[list[int]] = [[], [], []]
    unbalanced: list[object] = []
    stop = threading.Event()

    def offer(base):
        for start in range(0, offered_each, 8):
            subscription.offer([tagged(base + start + index) for index in range(8)])

    def receive(into):
        while (found := subscription.get(5)) is not None:
            into.append(found.record.seq)

    def look():
        while not stop.is_set():
            if not balances(subscription):
                unbalanced.append(subscription.statistics())

    threads = [threading.Thread(target=offer, args=(number * 10**6,)) for number in range(offerers)]
    receivers = [threading.Thread(target=receive, args=(into,)) for into in received]
    looker = threading.Thread(target=look)
    for thread in [looker, *receivers, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    subscription.end()
    for thread in receivers:
        thread.join()
    stop.set()
    looker.join()

    everything = [seq for into in received for seq in into]
    found = subscription.statistics()
    assert not unbalanced
    assert len(everything) == len(set(everything)) == found.received
    assert found.offered == offered_each * offerers == found.received + found.dropped_by_queue
    for into in received:
        for base in range(offerers):
            mine = [seq for seq in into if seq // 10**6 == base]
            assert mine == sorted(mine)


def test_a_timeout_is_kept():
    """`get` waits as long as it may and no longer; 0 asks without waiting."""
    subscription = make()
    before = time.monotonic()
    assert subscription.get(0.1) is None
    assert time.monotonic() - before >= 0.1
    assert subscription.get(0) is None
    threading.Timer(0.05, subscription.offer, ([tagged(1)],)).start()
    assert subscription.get(10).record.seq == 1
    assert balances(subscription)


def test_what_is_queued_at_the_end_is_received():
    """Ending wakes who waits; after it nothing more is offered, and what was queued comes before the end."""
    subscription = make()
    waiting = threading.Thread(target=lambda: [None for _ in subscription])
    waiting.start()
    subscription.end()
    waiting.join(10)
    assert not waiting.is_alive()

    subscription = make()
    subscription.offer([tagged(1), tagged(2)])
    subscription.close()
    subscription.offer([tagged(3)])
    assert [each.record.seq for each in subscription] == [1, 2]
    assert subscription.get() is None
    assert balances(subscription)


# Asynchronously


def test_it_iterates_asynchronously():
    """`async for` gets everything in order and ends with the subscription; a thread may offer meanwhile."""

    async def main(subscription, offer):
        offerer = threading.Thread(target=offer)
        offerer.start()
        found = [each.record.seq async for each in subscription]
        offerer.join()
        return found

    subscription = make(capacity=10_000)

    def offer():
        for number in range(2000):
            subscription.offer([tagged(number)])
        subscription.end()

    assert asyncio.run(main(subscription, offer)) == list(range(2000))
    assert balances(subscription)


def test_tasks_share_a_subscription():
    """Each record goes to one of them, and all end."""

    async def collect(subscription, into):
        async for each in subscription:
            into.append(each.record.seq)
            await asyncio.sleep(0)

    async def main(subscription):
        lists = [[], [], []]
        tasks = [asyncio.create_task(collect(subscription, into)) for into in lists]
        for number in range(300):
            subscription.offer([tagged(number)])
            if number % 10 == 0:
                await asyncio.sleep(0)
        subscription.end()
        await asyncio.gather(*tasks)
        return lists

    found = asyncio.run(main(make(capacity=1000)))
    assert sorted(seq for into in found for seq in into) == list(range(300))


def test_a_cancelled_wait_loses_nothing():
    """`wait_for` and a task that is cancelled leave the next record to the next who asks."""

    async def main(subscription):
        for _ in range(20):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(subscription), 0.001)
        task = asyncio.create_task(anext(subscription))
        await asyncio.sleep(0)
        subscription.offer([tagged(1)])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not subscription._waiting
        return (await anext(subscription)).record.seq

    subscription = make()
    assert asyncio.run(main(subscription)) == 1
    assert balances(subscription)


def test_a_loop_that_is_gone_is_forgotten():
    """A loop that was closed while it waited hurts nobody."""
    subscription = make()

    async def wait_a_moment():
        task = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0)
        return task

    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(wait_a_moment())
    loop.close()
    subscription.offer([tagged(1)])
    assert subscription.get(0).record.seq == 1
    task.get_coro  # noqa: B018 -- it stays alive until here
    task._log_destroy_pending = False


# With a host


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
