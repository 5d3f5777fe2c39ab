"""A host and a cell in this process, for tests of what lies between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from roam.testing import InProcessCell
from roam.tracing.host import TracingHost
from roam.tracing.records import Record, TaggedRecord
from roam.tracing.statistics import PeerStatistics
from roam.tracing.subscription import Subscription
from tests.support import wait_until

__all__ = ["arrived", "balances", "descriptors", "holds", "in_process", "messages", "plain"]


@contextmanager
def in_process(
    config: Any = None, *, name: str = "cell", **options: Any
) -> Iterator[tuple[TracingHost, InProcessCell]]:
    """A host that forwards nothing, unless told to, and an open cell of it."""
    with TracingHost(config, **{"forward": False, **options}) as host, InProcessCell(host, name) as cell:
        yield host, cell


def plain(records: Iterable[Record | TaggedRecord]) -> list[Record]:
    """Records without their peers."""
    return [record.record if isinstance(record, TaggedRecord) else record for record in records]


def messages(records: Iterable[Record | TaggedRecord], kind: str | None = "event") -> list[str]:
    """The messages of one kind of record, of all for None."""
    return [record.message for record in plain(records) if kind is None or record.kind == kind]


def holds(statistics: PeerStatistics) -> bool:
    """Whether the accounting identity holds in every lane."""
    return all(lane.emitted == lane.delivered + lane.lost + lane.resident for lane in statistics.lanes.values())


def balances(subscription: Subscription) -> bool:
    """Whether the count of records is right at this moment."""
    found = subscription.statistics()
    return found.offered == found.received + found.dropped_by_queue + found.queued


def arrived(cell: Any, count: int | None = None) -> list[Record]:
    """What the host keeps of a cell, once all was taken that it has written: at least `count` records."""

    def is_done() -> bool:
        statistics = cell.statistics()
        assert holds(statistics), statistics
        delivered = sum(lane.delivered for lane in statistics.lanes.values())
        return all(lane.resident == 0 for lane in statistics.lanes.values()) and (count is None or delivered >= count)

    wait_until(is_done, message="all records are taken")
    return list(cell.records())


def descriptors() -> dict[int, str]:
    """The open descriptors of this process by what they lead to."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            found[int(link.name)] = str(link.readlink())
        except OSError:
            continue
    return found
