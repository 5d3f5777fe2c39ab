"""A subscriber's own bounded queue of tagged records.

Threads: the collector offers, any thread or event loop receives. A subscriber that is slow, or never reads, loses its
own oldest records, which are counted, and nobody else's.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from .filter import Filter
from .records import Dropped, Lost, TaggedRecord
from .statistics import SubscriptionStatistics

__all__ = ["Subscription"]

BATCH = 512
"""How many records a receiver takes out of the queue at a time."""


class Subscription:
    """What `TracingHost.subscribe` returns: an iterator, an asynchronous iterator and a context manager.

    Iteration ends when the subscription is closed, or its host is and everything was received.
    """

    def __init__(self, filter: Filter | None, capacity: int, forget: Callable[[Subscription], None]) -> None:
        self._filter = filter
        self._capacity = capacity
        self._forget = forget
        self._queue: deque[TaggedRecord] = deque()
        self._ready = threading.Condition(threading.Lock())
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._closed = False
        self._taken: deque[TaggedRecord] = deque()
        self._offered = self._taken_count = self._dropped = 0

    @property
    def lowest(self) -> int:
        """No record below this level is wanted."""
        return 0 if self._filter is None else self._filter.lowest

    def offer(self, records: list[TaggedRecord]) -> None:
        """Queue those records that pass the filter; the oldest go when the queue is full. Never blocks."""
        wanted = records if self._filter is None else list(self._passing(self._filter, records))
        if not wanted:
            return
        with self._ready:
            if self._closed:
                return
            queue = self._queue
            self._offered += len(wanted)
            queue.extend(wanted)
            if len(queue) + len(self._taken) > self._capacity:
                self._drop_oldest()
            self._wake()

    def _drop_oldest(self) -> None:
        """Get back within the capacity. The lock is held, which receivers do not need for what is in `_taken`."""
        # r[impl trace.subscription.bounded]
        while len(self._queue) + len(self._taken) > self._capacity:
            try:
                self._taken.popleft()
                self._taken_count -= 1
            except IndexError:
                self._queue.popleft()
            self._dropped += 1

    def _passing(self, filter: Filter, records: list[TaggedRecord]) -> Iterator[TaggedRecord]:
        thresholds = filter.thresholds
        for tagged in records:
            record = tagged.record
            threshold = thresholds.get(record.target)
            if threshold is None:
                threshold = filter.threshold(record.target)
            # Notices of loss always pass.
            if record.level >= threshold or isinstance(record, (Lost, Dropped)):
                yield tagged

    def get(self, timeout: float | None = None) -> TaggedRecord | None:
        """The next record; None when `timeout` seconds passed without one, or the stream has ended."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return self._taken.popleft()
            except IndexError:
                pass
            with self._ready:
                while not self._take():
                    if self._closed:
                        return None
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        return None
                    self._ready.wait(left)

    def _take(self) -> bool:
        """Move a batch to where receivers find it without a lock, if nothing is there. The lock is held."""
        queue = self._queue
        if not self._taken:
            for _ in range(min(BATCH, len(queue))):
                self._taken.append(queue.popleft())
                self._taken_count += 1
        return bool(self._taken)

    def __iter__(self) -> Subscription:
        return self

    def __next__(self) -> TaggedRecord:
        try:
            return self._taken.popleft()
        except IndexError:
            tagged = self.get()
        if tagged is None:
            raise StopIteration
        return tagged

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> TaggedRecord:
        while True:
            try:
                return self._taken.popleft()
            except IndexError:
                pass
            with self._ready:
                if self._take():
                    continue
                if self._closed:
                    raise StopAsyncIteration
                loop = asyncio.get_running_loop()
                arrival: asyncio.Future[None] = loop.create_future()
                entry = (loop, arrival)
                self._waiting.append(entry)
            try:
                await arrival
            finally:
                with self._ready:
                    if entry in self._waiting:
                        self._waiting.remove(entry)

    def statistics(self) -> SubscriptionStatistics:
        """`offered == received + dropped_by_queue + queued`, at any moment."""
        with self._ready:
            waiting = len(self._taken)
            return SubscriptionStatistics(
                offered=self._offered,
                received=self._taken_count - waiting,
                dropped_by_queue=self._dropped,
                queued=len(self._queue) + waiting,
            )

    def end(self) -> None:
        """The host ends: what is queued can still be received, then iteration ends."""
        with self._ready:
            self._closed = True
            self._wake()

    def forget(self) -> None:
        """In a forked child, where nothing arrives: end it, whoever holds the lock in the parent."""
        self._ready = threading.Condition(threading.Lock())
        self._waiting = []
        self._closed = True

    def close(self) -> None:
        """End the subscription. What is queued stays readable by `get`; nothing more is offered."""
        self._forget(self)
        self.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _wake(self) -> None:
        self._ready.notify_all()
        waiting, self._waiting = self._waiting, []
        for loop, arrival in waiting:
            try:
                loop.call_soon_threadsafe(_arrive, arrival)
            except RuntimeError:
                # The loop is closed; nobody waits there any more.
                continue


def _arrive(arrival: asyncio.Future[None]) -> None:
    if not arrival.done():
        arrival.set_result(None)
