"""What the goals under load share: the accounting of a host looked at again and again, and a subscriber that reads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from roam.tracing.host import TracingHost
from roam.tracing.records import TaggedRecord
from roam.tracing.statistics import LaneStatistics, PeerStatistics
from roam.tracing.subscription import Subscription

from .goal import Broken, expect

__all__ = ["PATIENCE_S", "Accounts", "check_at_rest", "check_balance", "reading"]

PATIENCE_S = 60.0
"""How long a cell may take to end when its time is up."""


class Accounts:
    """Looks at the numbers of a host: at every look each lane adds up, and no count has become smaller."""

    def __init__(self, host: TracingHost) -> None:
        self._host = host
        self._before: dict[tuple[int, str], LaneStatistics] = {}
        self.looks = 0
        self.most_resident = 0
        """The most records that were seen waiting in one lane."""

    def look(self) -> None:
        """Take the statistics of all peers once."""
        for peer_id, peer in self._host.statistics().peers.items():
            for name, lane in peer.lanes.items():
                where = f"lane {name} of peer {peer_id}"
                check_identity(lane, where)
                before = self._before.get((peer_id, name), lane)
                for count in ("emitted", "delivered", "lost"):
                    expect(getattr(lane, count) >= getattr(before, count), f"{where}: {before} became {lane}")
                self._before[peer_id, name] = lane
                self.most_resident = max(self.most_resident, lane.resident)
        self.looks += 1


def check_identity(lane: LaneStatistics, where: str) -> None:
    """Everything that was emitted is somewhere."""
    expect(
        lane.emitted == lane.delivered + lane.lost + lane.resident
        and min(lane.emitted, lane.delivered, lane.lost, lane.resident) >= 0,
        f"{where} does not add up: {lane}",
    )


def check_at_rest(statistics: PeerStatistics, name: str) -> None:
    """The identity of a peer that has ended: nothing waits any more."""
    for lane_name, lane in statistics.lanes.items():
        where = f"lane {lane_name} of {name}, which has ended,"
        check_identity(lane, where)
        expect(lane.resident == 0, f"{where} still holds records that were not taken: {lane}")


def check_balance(subscription: Subscription) -> None:
    """What a subscriber was offered is somewhere."""
    found = subscription.statistics()
    expect(
        found.offered == found.received + found.dropped_by_queue + found.queued,
        f"a subscription does not add up: {found}",
    )


@contextmanager
def reading(subscription: Subscription, take: Callable[[TaggedRecord], None]) -> Iterator[None]:
    """While it lasts, a thread gives all records of the subscription to `take`; then the subscription is closed.
    Raises what `take` raised."""
    failures: list[Exception] = []

    def read() -> None:
        for tagged in subscription:
            try:
                take(tagged)
            except Exception as failure:
                failures.append(failure)
                return

    thread = threading.Thread(target=read, name="reader")
    thread.start()
    try:
        yield
    finally:
        subscription.close()
        thread.join(PATIENCE_S)
    if thread.is_alive():
        raise Broken("a subscription was closed, and its reader waits on")
    if failures:
        raise failures[0]
