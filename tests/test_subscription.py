"""Subscriptions: bounded queues that never lose count, and never hold anybody up."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roam.tracing.filter import Filter
from roam.tracing.records import Dropped, Event, Lost, Peer, SpanEnter, TaggedRecord
from roam.tracing.subscription import Subscription
from tests.hosting import balances

PEER = Peer(1, 1, "cell", 2)


def tagged(number, level=20, target="app"):
    """A record with a number."""
    return TaggedRecord(PEER, Event(level, target, str(number), {}, 1, b"s" * 8, b"t" * 16, seq=number))


def make(filter=None, capacity=10):
    """A subscription without a host."""
    return Subscription(None if filter is None else Filter(filter), capacity, lambda _: None)


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
