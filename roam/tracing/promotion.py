"""Retroactive detail: traces of which everything that was captured goes on, also what the forward level kept back.

Ownership: one per host, under the lock of its `FanOut`. Failure: nothing raises; what nobody keeps any more is not there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from ..errors import RecordError
from .codec import decode
from .lanes import LANES
from .link import PeerLink
from .records import Record, TaggedRecord

__all__ = ["Promotions"]

MOST_TRACES = 1024
"""How many traces are remembered, the newest. Of a forgotten one, records that come later are kept back as before; where
it is promoted again, all that was kept back of it is sent again; and replay gives nothing of that. As many are remembered
of those that failed and were not promoted."""
BUDGET_S = 0.1
"""How much of each second the search for failed traces may take of the collector, which does nothing else meanwhile."""


class Promotions:
    """The promoted traces, and how far each peer had been collected when they were promoted."""

    def __init__(self) -> None:
        self._marks: dict[bytes, dict[int, tuple[int, ...]]] = {}
        self._budget_s = BUDGET_S
        self._counted_at = time.monotonic()
        self.skipped = 0
        """Failed traces that were not promoted when they failed, because too many did at once. Each is counted once, however
        many of its spans fail, as long as it is remembered."""
        self._skipped_traces: dict[bytes, None] = {}

    def __contains__(self, trace_id: bytes) -> bool:
        return trace_id in self._marks

    def includes(self, link: PeerLink, record: Record) -> bool:
        """Whether a record, collected since its trace was promoted, goes on for that reason."""
        if not self._marks or record.trace_id is None or record.seq is None:
            return False
        marks = self._marks.get(record.trace_id)
        if marks is None:
            return False
        seen = marks.get(link.peer.peer_id)
        return seen is None or record.seq >= seen[LANES.index(record.lane)]

    def promote(self, trace_id: bytes, links: Iterable[PeerLink]) -> list[TaggedRecord]:
        """Promote a trace. Returns what is kept of it, in time order; nothing where it was promoted before."""
        # r[impl trace.promoted]
        if trace_id in self._marks:
            return []
        while len(self._marks) >= MOST_TRACES:
            del self._marks[next(iter(self._marks))]
        marks = self._marks[trace_id] = {}
        found: list[TaggedRecord] = []
        for link in links:
            marks[link.peer.peer_id] = tuple(link.offered_seq)
            found += [TaggedRecord(link.peer, record) for record in _kept_of(link, trace_id)]
        found.sort(key=lambda tagged: tagged.record.time_ns)
        return found

    def promote_failed(self, trace_id: bytes, links: Iterable[PeerLink]) -> list[TaggedRecord]:
        """As `promote`, within the budget for it."""
        now = time.monotonic()
        if now - self._counted_at >= 1.0:
            self._counted_at, self._budget_s = now, BUDGET_S
        if trace_id not in self._marks and self._budget_s <= 0:
            self._skip(trace_id)
            return []
        found = self.promote(trace_id, links)
        self._budget_s -= time.monotonic() - now
        return found

    def _skip(self, trace_id: bytes) -> None:
        if trace_id in self._skipped_traces:
            return
        while len(self._skipped_traces) >= MOST_TRACES:
            del self._skipped_traces[next(iter(self._skipped_traces))]
        self._skipped_traces[trace_id] = None
        self.skipped += 1


def _kept_of(link: PeerLink, trace_id: bytes) -> list[Record]:
    """The records of a trace that were collected and are still kept."""
    found: list[Record] = []
    for chunk in link.retention.snapshot()[0]:
        # An id stands in a body as it is, and most chunks hold none of it.
        if trace_id not in chunk.data:
            continue
        lane = LANES[chunk.lane]
        for seq, monotonic_ns, payload in chunk:
            if trace_id not in payload or seq >= link.offered_seq[chunk.lane]:
                continue
            try:
                record = decode(payload)
            except RecordError:
                continue
            if record.trace_id == trace_id:
                record.time_ns, record.seq, record.lane = link.anchor.to_wall_ns(monotonic_ns), seq, lane
                found.append(record)
    return found
