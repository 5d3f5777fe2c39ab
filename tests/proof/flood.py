"""A flood: cells emit faster than anybody could take it, and every single record is delivered or counted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from roam.shm.layout import SegmentConfig
from roam.spawn.cell import Cell
from roam.spawn.supervise import spawn_cell
from roam.tracing.config import TracingConfig
from roam.tracing.host import TracingHost
from roam.tracing.records import Dropped, Lost, TaggedRecord
from roam.tracing.subscription import Subscription
from tests.programs import resident_bytes

from . import cells
from .goal import Case, Goal, Tally, expect
from .load import PATIENCE_S, Accounts, check_at_rest, check_balance, reading

__all__ = ["Flood"]

GROWTH_BYTES = 8 << 20
"""How much more memory of its own the host may take at any later moment than when it was warm."""
WARM_SHARE = 3
"""It is warm after a third of the time: what it keeps of each peer is full then."""
LOOK_EVERY_S = 0.02
NEVER_READ_CAPACITY = 1_000
RETAINED_BYTES = 1 << 18
"""What the host keeps of a peer: little, so that it is warm soon."""


class _Witness:
    """Reads the warnings, and every notice of drops and losses, and holds them against each other."""

    def __init__(self) -> None:
        self.announcements: Counter[int] = Counter()
        self.told: Counter[int] = Counter()
        """Drops that were announced, by peer."""
        self.lost: Counter[tuple[int, str]] = Counter()
        self.laps = 0
        self._next_seq: Counter[int] = Counter()

    def take(self, tagged: TaggedRecord) -> None:
        """The next record of the stream."""
        record, peer_id = tagged.record, tagged.peer.peer_id
        if isinstance(record, Lost):
            self.lost[peer_id, record.lane] += record.count
            self.laps += record.cause == "overwritten"
        elif record.lane == "vital":
            expect(record.seq == self._next_seq[peer_id], f"{record} after {self._next_seq[peer_id] - 1}")
            self._next_seq[peer_id] += 1
            if isinstance(record, Dropped):
                self.announcements[peer_id] += 1
                self.told[peer_id] += sum(record.counts.values())
            else:
                dropped = record.fields["dropped"]
                expect(dropped == self.told[peer_id], f"{dropped} dropped, and {self.told[peer_id]} announced before")


# r[verify shm.dropped.announced]
class Flood(Goal):
    """Cells that never pause, two to four times as many as there is room for."""

    name = "flood"
    unit = "records"
    promise = (
        "emitted == delivered + lost + resident at every look, attempted == emitted + dropped at the end, per cell and "
        f"lane; offered == received + dropped + queued per subscriber; the host grows by less than {GROWTH_BYTES >> 20} MiB"
    )
    covers = ("overwritten", "laps", "dropped and announced", "looks", "dropped by a queue")
    is_exact = False

    def cases(self, *, small: bool, seed: int) -> Iterator[Case]:
        """One flood; the small one over rings that overflow on the slowest machine."""
        if small:
            yield {"cells": 2, "seconds": 1.0, "page_bytes": 4096, "bulk_pages": 2}
        else:
            yield {"cells": 4, "seconds": 30.0, "page_bytes": 32768, "bulk_pages": 32}

    def check(self, case: Case, tally: Tally) -> None:
        """Flood a host."""
        witness = _Witness()
        sizes = SegmentConfig(page_bytes=case["page_bytes"], bulk_pages=case["bulk_pages"], record_bytes=1024)
        with TracingHost(TracingConfig("info"), segment=sizes, retain_bytes=RETAINED_BYTES, forward=False) as host:
            idle, reader = host.subscribe(capacity=NEVER_READ_CAPACITY), host.subscribe("warning", capacity=1_000_000)
            accounts = Accounts(host)
            with reading(reader, witness.take):
                children = [
                    spawn_cell(cells.flood, case["seconds"], stdio="null", host=host) for _ in range(case["cells"])
                ]
                with ThreadPoolExecutor(len(children)) as pool:
                    answers = [pool.submit(child.result, case["seconds"] + PATIENCE_S) for child in children]
                    grown = _look_until(lambda: all(answer.done() for answer in answers), accounts, (idle, reader))
                attempts = [answer.result() for answer in answers]
            accounts.look()
            for child, attempted in zip(children, attempts, strict=True):
                _check_cell(child, attempted, witness, tally)
        for subscription in (idle, reader):
            check_balance(subscription)
        expect(
            reader.statistics().dropped_by_queue == 0, f"the queue of the reader was too short: {reader.statistics()}"
        )
        tally.counts["laps"] += witness.laps
        tally.counts["looks"] += accounts.looks
        tally.counts["dropped by a queue"] += idle.statistics().dropped_by_queue
        tally.samples["seconds"].append(case["seconds"])
        growth = _growth_of(grown)
        tally.samples["growth"].append(growth)
        expect(growth < GROWTH_BYTES, f"the host grew by {growth >> 10} KiB under a flood")

    def figures(self, tally: Tally) -> str:
        """What the table says."""
        counts = tally.counts
        rate = counts[self.unit] / sum(tally.samples["seconds"])
        return (
            f"{rate:,.0f} records a second; {counts['overwritten']:,} overwritten and counted, in {counts['laps']:,} laps; "
            f"{counts['dropped and announced']:,} dropped and announced; {counts['looks']:,} looks; "
            f"the host grew by {max(tally.samples['growth']) / (1 << 20):.1f} MiB"
        )


def _look_until(is_over: Callable[[], bool], accounts: Accounts, subscriptions: tuple[Subscription, ...]) -> list[int]:
    """Look at everything again and again until the flood is over. Returns what memory the host had each time."""
    sizes = []
    while not is_over():
        accounts.look()
        for subscription in subscriptions:
            check_balance(subscription)
        sizes.append(resident_bytes())
        time.sleep(LOOK_EVERY_S)
    return sizes


def _growth_of(sizes: list[int]) -> int:
    """By how many bytes the memory grew once the host was warm."""
    warm = len(sizes) // WARM_SHARE
    return max(sizes[warm:]) - sizes[warm]


def _check_cell(child: Cell, attempted: dict[str, int], witness: _Witness, tally: Tally) -> None:
    """Hold a cell's own counts, the host's, and those of the witness against each other."""
    peer_id, statistics = child.peer.peer_id, child.statistics()
    check_at_rest(statistics, child.name)
    dropped = attempted["dropped"]
    for lane_name, lane in statistics.lanes.items():
        where = f"lane {lane_name} of {child.name}: {lane}"
        # Announcements get a sequence, too, and nobody attempted them.
        announcements = witness.announcements[peer_id] if lane_name == "vital" else 0
        expect(
            attempted[lane_name] == lane.emitted - announcements + sum(lane.dropped.values()),
            f"{where}, but the cell attempted {attempted[lane_name]}, and {announcements} announcements were read",
        )
        told = witness.lost[peer_id, lane_name]
        expect(told == lane.lost, f"{where}, but subscribers were told of {told} lost records")
        tally.counts["records"] += attempted[lane_name]
        tally.counts["overwritten"] += lane.lost
    vital = statistics.lanes["vital"]
    expect(vital.lost == 0, f"records evicted warnings: {vital}")
    expect(sum(vital.dropped.values()) == dropped == witness.told[peer_id], f"{dropped} dropped, but {vital}")
    tally.counts["dropped and announced"] += witness.told[peer_id]
