"""From raw chunks to subscribers: decode once, and only what somebody wants.

Threads: `deliver` runs in the collector, the rest in any thread, under one lock that makes replay and live records
meet without a gap or a repetition.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from operator import itemgetter

from ..errors import HostClosed, RecordError
from ..shm.reader import Chunk, Gap
from .codec import decode, level_of
from .config import TracingConfig
from .filter import Filter
from .lanes import LANES, STDIO_NAME
from .link import PeerLink
from .peer import Entry
from .promotion import Promotions
from .records import INFO, PRINTED, Dropped, Event, Lost, Peer, Record, SpanClose, TaggedRecord
from .statistics import SubscriptionStatistics
from .subscription import Subscription

__all__ = ["FanOut"]

NOBODY = 1 << 31
BATCH = 512
FORWARDS_KEPT = 64
"""How many earlier forward filters are remembered. What was collected before is judged by the oldest of them."""
_time_of = itemgetter(0)
_NO_FORWARDING = SubscriptionStatistics(offered=0, received=0, dropped_by_queue=0, queued=0)


class FanOut:
    """The subscribers of one host, and the forwarder into its logging."""

    def __init__(self, *, forward: bool, config: TracingConfig, peers: Callable[[], Iterable[PeerLink]]) -> None:
        self._config = config
        # Filters that were in force, oldest first, each with the sequences by peer and lane below which it was the last.
        self._forward_before: deque[tuple[Filter | None, dict[int, tuple[int, ...]]]] = deque(maxlen=FORWARDS_KEPT)
        self.promotes_failures = False
        """Whether a span that ends with an exception promotes its trace."""
        self._peers = peers
        self._promotions = Promotions()
        self._subscriptions: list[Subscription] = []
        self._is_closed = False
        self._lock = threading.Lock()
        self._forwarder = None
        if forward:
            from .forward import Forwarder, lowest_level_in_use

            self._forwarder = Forwarder()
            self._lowest_level_in_use = lowest_level_in_use

    def configure(self, config: TracingConfig) -> None:
        """Let its `forward` filter decide what leaves the host, of what is delivered from now on."""
        with self._lock:
            if config.forward == self._config.forward:
                return
            ends = {link.peer.peer_id: tuple(link.offered_seq) for link in self._peers()}
            # Where nothing was delivered since the last change, the filter between was in force for nothing.
            if not self._forward_before or self._forward_before[-1][1] != ends:
                self._forward_before.append((self._config.forward, ends))
            self._config = config

    def subscribe(self, filter: str | None, capacity: int, *, is_replayed: bool) -> Subscription:
        """Add a subscriber, after offering it what is kept, if that is to be replayed."""
        if not isinstance(capacity, int):
            raise TypeError(f"subscribe(capacity={capacity!r}): a number of records is an integer")
        if capacity < 1:
            raise ValueError(f"subscribe(capacity={capacity}): a queue holds at least one record")
        wanted = None if filter is None else Filter(filter)
        if wanted is not None:
            wanted.require_targets_only()
        subscription = Subscription(wanted, capacity, self._forget)
        with self._lock:
            if self._is_closed:
                raise HostClosed("subscribe")
            # Named under the lock: a peer that is registered later delivers later.
            past = [
                TaggedRecord(link.peer, record)
                for link in (self._peers() if is_replayed else ())
                for record in link.records()
                if self._has_left(link, record)
            ]
            past.sort(key=lambda tagged: tagged.record.time_ns)
            subscription.offer(past)
            self._subscriptions.append(subscription)
        return subscription

    def deliver(self, link: PeerLink, items: list[Chunk | Gap], final: bool) -> None:
        """Offer what was read from a link. `final` says that nothing more will come."""
        if not items and not link.held and not final:
            return
        with self._lock:
            forward_level = self._forward_level()
            lowest = min((subscription.lowest for subscription in self._subscriptions), default=NOBODY)
            lowest = min(lowest, forward_level)
            if self.promotes_failures and lowest < NOBODY:
                lowest = min(lowest, INFO)  # the level of the end of a span
            entries = self._entries(link, items, lowest)
            for item in items:
                link.offered_seq[item.lane] = item.first_seq + item.count
            if final:
                entries.extend((lost.time_ns, lost.lane, None, lost) for lost in link.unannounced())
            ready = self._in_order(link, entries, hold=bool(items))
            # In batches, because a record takes ten times the memory of its bytes, and a whole ring may be waiting.
            for start in range(0, len(ready), BATCH):
                self._offer(link, ready[start : start + BATCH], forward_level)

    def _offer(self, link: PeerLink, entries: list[Entry], forward_level: int) -> None:
        records = []
        for record in map(_decoded, entries):
            if self._may_leave(link.peer, record) or self._promotions.includes(link, record):
                records.append(record)
            if self.promotes_failures and isinstance(record, SpanClose) and record.exception is not None:
                # What was collected by now, this batch included; the batch itself brings what may leave anyway.
                past = self._promotions.promote_failed(record.trace_id, self._peers())
                self._hand_out(self._kept_back(past), forward_level)
        # r[impl trace.peer.attributed] By the segment it was read from; no record says whose it is.
        self._hand_out([TaggedRecord(link.peer, record) for record in records], forward_level)

    def promote(self, trace_id: bytes) -> int:
        """Hand out what was kept back of a trace; see `TracingHost.promote`. Returns how many records. A trace that was
        promoted so long ago that it is forgotten, see `Promotions`, is handed out again. Raises `TypeError` or
        `ValueError` for what is no trace id."""
        if not isinstance(trace_id, bytes):
            raise TypeError(f"promote({trace_id!r}): a trace id is bytes, 16 of them, as in record.trace_id")
        if len(trace_id) != 16:
            raise ValueError(f"promote({trace_id!r}): a trace id is 16 bytes, as in record.trace_id")
        with self._lock:
            kept_back = self._kept_back(self._promotions.promote(trace_id, self._peers()))
            self._hand_out(kept_back, self._forward_level())
            return len(kept_back)

    @property
    def promotions_skipped(self) -> int:
        """See `HostStatistics`."""
        return self._promotions.skipped

    def _kept_back(self, tagged: list[TaggedRecord]) -> list[TaggedRecord]:
        return [each for each in tagged if not self._may_leave(each.peer, each.record)]

    def _hand_out(self, tagged: list[TaggedRecord], forward_level: int) -> None:
        if not tagged:
            return
        for subscription in self._subscriptions:
            subscription.offer(tagged)
        if self._forwarder is not None:
            self._forwarder.offer(
                [each for each in tagged if each.record.level >= forward_level and _is_forwarded(each.record)]
            )

    def flush_forwarding(self, timeout_s: float) -> bool:
        """Wait for the forwarder; see `TracingHost.flush_forwarding`."""
        return self._forwarder is None or self._forwarder.flush(timeout_s)

    def forwarding_statistics(self) -> SubscriptionStatistics:
        """Of the queue in front of the host's logging."""
        return _NO_FORWARDING if self._forwarder is None else self._forwarder.statistics()

    def close(self) -> None:
        """End all streams, and the forwarder when it has handed over what it has."""
        with self._lock:
            self._is_closed = True
            subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            subscription.end()
        if self._forwarder is not None:
            self._forwarder.close(5.0)

    def forget(self) -> None:
        """In a forked child: end all streams, without the locks that another thread may hold in the parent."""
        self._lock = threading.Lock()
        self._is_closed = True
        for subscription in self._subscriptions:
            subscription.forget()

    def _forget(self, subscription: Subscription) -> None:
        with self._lock:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)

    def _forward_level(self) -> int:
        return NOBODY if self._forwarder is None else self._lowest_level_in_use()

    def _may_leave(self, peer: Peer, record: Record) -> bool:
        """Whether the forward filter lets a record through: the one in force when it was delivered, so that whoever asks
        later gets the same answer."""
        if isinstance(record, (Lost, Dropped)):
            return True
        forward = self._config.forward
        if self._forward_before and record.seq is not None:
            lane = LANES.index(record.lane)
            for before, ends in self._forward_before:
                end = ends.get(peer.peer_id)
                if end is not None and record.seq < end[lane]:
                    forward = before
                    break
        return forward is None or record.level >= forward.threshold(record.target)

    def _has_left(self, link: PeerLink, record: Record) -> bool:
        """Whether subscribers of that time got a record, by its delivery or by the promotion of its trace."""
        if self._may_leave(link.peer, record):
            return _was_offered(link, record)
        if record.trace_id is None or record.trace_id not in self._promotions:
            return False
        # What was held when its trace was promoted went ahead of its turn, and does not come again with the live ones.
        return _was_offered(link, record) or not self._promotions.includes(link, record)

    def _entries(self, link: PeerLink, items: list[Chunk | Gap], lowest: int) -> list[Entry]:
        """What reaches `lowest`. The level stands at a fixed place of a body, so the rest is not even decoded."""
        found: list[Entry] = []
        if lowest >= NOBODY:
            return found
        to_wall_ns = link.anchor.wall_ns - link.anchor.monotonic_ns
        for index, item in enumerate(items):
            if isinstance(item, Gap):
                lost = link.gap_record(items, index)
                found.append((lost.time_ns, lost.lane, lost.first_seq, lost))
                continue
            lane = LANES[item.lane]
            for seq, monotonic_ns, payload in item:
                # The third byte of a body is its level, if that is below 128; the full look is only for skipping.
                if len(payload) > 2 and payload[2] < lowest:
                    level = level_of(payload)
                    if level is not None and level < lowest:
                        continue
                found.append((monotonic_ns + to_wall_ns, lane, seq, payload))
        return found

    def _in_order(self, link: PeerLink, entries: list[Entry], *, hold: bool) -> list[Entry]:
        """Entries of all lanes by time. What is newer than the heartbeat that was read before the lanes were may have
        older company in a lane that was read earlier: it waits one poll."""
        held, link.held = link.held, []
        entries = held + entries
        entries.sort(key=_time_of)
        until = link.anchor.to_wall_ns(link.heartbeat)
        if hold and entries and entries[-1][0] > until:
            ready = [entry for entry in entries if entry[0] <= until]
            late = [entry for entry in entries if entry[0] > until]
            already = set(map(id, held))
            link.held = [entry for entry in late if id(entry) not in already]
            entries = ready + [entry for entry in late if id(entry) in already]
        return entries


def _decoded(entry: Entry) -> Record:
    time_ns, lane, seq, body = entry
    if not isinstance(body, bytes):
        return body
    try:
        record = decode(body)
    except RecordError:
        return Lost(lane, seq, 1, "undecodable", time_ns)
    record.time_ns, record.seq, record.lane = time_ns, seq, lane  # type: ignore[misc]
    return record


def _was_offered(link: PeerLink, record: Record) -> bool:
    """Whether subscribers of that time got the record; otherwise it comes with the live ones."""
    if record.seq is None:
        return True
    if record.seq >= link.offered_seq[LANES.index(record.lane)]:
        return False
    return all(seq != record.seq or lane != record.lane for _, lane, seq, _ in link.held)


def _is_forwarded(record: Record) -> bool:
    # r[impl trace.lines.once]
    is_shown = record.lane == STDIO_NAME and record.flags & PRINTED
    return isinstance(record, (Event, Lost, Dropped)) and not is_shown
