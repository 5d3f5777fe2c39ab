"""The numbers of the accounting identity.

At rest and in every snapshot `emitted == delivered + lost + resident`, per lane, each measured on its own: emitted by
the newest commit word, delivered by the reader's count, lost by the gaps it found or will find, resident by the counts
of the pages beyond its position.
"""

from __future__ import annotations

import msgspec

__all__ = ["DumpStatistics", "HostStatistics", "LaneStatistics", "PeerStatistics", "SubscriptionStatistics"]


class LaneStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One lane of one peer. All are counts of records."""

    emitted: int
    """Committed by the cell: every record that got a sequence number. In the lane `stdio`: every line that was read."""
    delivered: int
    """Copied and validated by the host."""
    lost: int
    """Overwritten before the host came, or damaged. In the lane `stdio`: lines that nobody read in time."""
    resident: int
    """Committed, and still to be copied."""
    dropped: dict[str, int] = {}
    """Never written, by cause; beside the identity: `attempted == emitted + sum(dropped)`."""


class PeerStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One peer."""

    lanes: dict[str, LaneStatistics]
    spans_torn: int = 0
    """Slots of the open-span table that could not be read."""
    spans_overflowed: int = 0
    """Spans that were opened while the table was full."""
    suppressed: dict[str, int] = {}
    """Records that sampling and rate limits kept out, by key; they are among the `dropped` of their lanes as well."""
    retained_bytes: int = 0
    evicted: int = 0
    """Records that were delivered and then given up to keep within the retention limit."""


class SubscriptionStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One subscription: `offered == received + dropped_by_queue + queued`."""

    offered: int
    received: int
    dropped_by_queue: int
    queued: int


class DumpStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The post-mortems of one host. All are counts."""

    written: int = 0
    failed: int = 0
    """Could not be written; their segments are kept as the evidence."""
    suppressed: int = 0
    """Are in no file, because too many cells died at once; see `DumpLimits`."""
    removed: int = 0
    """Dumps, of whichever host, that this one removed to keep their directory within its limits."""


class HostStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """A whole host."""

    peers: dict[int, PeerStatistics]
    """By peer id."""
    retained_bytes: int
    evicted: int
    forwarding: SubscriptionStatistics
    """Into the host's own logging."""
    promotions_skipped: int = 0
    """Traces that failed, and were not promoted then because too many failed at once; each once, of 1,024 remembered."""
    dumps: DumpStatistics = DumpStatistics()
