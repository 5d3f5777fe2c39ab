"""A flood over lanes that keep what the host has not taken: nothing is overwritten, and what is refused is told of."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from roam.shm.layout import SegmentConfig
from roam.spawn.cell import Cell
from roam.spawn.supervise import spawn_cell
from roam.tracing.config import TracingConfig
from roam.tracing.host import TracingHost
from roam.tracing.records import Dropped, Lost, TaggedRecord

from . import cells
from .goal import Case, Goal, Tally, expect, quantile
from .load import PATIENCE_S, Accounts, check_at_rest, reading

__all__ = ["SparedFlood"]

POLICIES = {"drop_newest": "newest", "block(0.02)": "timed_out"}
"""And the cause that each refuses records for."""


class _Notices:
    """Counts what the stream says is missing, by peer."""

    def __init__(self) -> None:
        self.announcements: Counter[int] = Counter()
        self.told: Counter[int] = Counter()

    def take(self, tagged: TaggedRecord) -> None:
        """The next record of the stream."""
        record, peer_id = tagged.record, tagged.peer.peer_id
        if isinstance(record, Dropped):
            self.announcements[peer_id] += 1
            self.told[peer_id] += sum(record.counts.values())
        elif isinstance(record, Lost):
            # What was refused after the last record that there was room for is told at the end.
            self.told[peer_id] += record.count


# r[verify shm.overflow.spared]
# r[verify shm.dropped.announced]
class SparedFlood(Goal):
    """Cells that never pause, under the policies that overwrite nothing.

    The host stands still for a while now and then, so that `block` waits in vain, too.
    """

    name = "spared-flood"
    unit = "records"
    promise = (
        "0 overwritten; attempted == emitted + refused, and the stream tells of as many refused records, per cell; "
        "emitted == delivered + lost + resident at every look"
    )
    covers = ("delivered", "refused: newest", "refused: timed_out", "announcements", "looks")
    is_exact = False

    def cases(self, *, small: bool, seed: int) -> Iterator[Case]:
        """One flood for each policy."""
        for policy in POLICIES:
            yield {"policy": policy, "cells": 2 if small else 4, "seconds": 0.6 if small else 10.0, "pages": 4}

    def check(self, case: Case, tally: Tally) -> None:
        """Flood a host."""
        sizes = SegmentConfig(page_bytes=4096, bulk_pages=case["pages"], record_bytes=1024)
        config = TracingConfig("info", overflow=case["policy"])
        notices = _Notices()
        with TracingHost(config, segment=sizes, forward=False) as host:
            accounts, reader = Accounts(host), host.subscribe("warning", capacity=1_000_000)
            with reading(reader, notices.take):
                children = [spawn_cell(cells.press, case["seconds"], host=host) for _ in range(case["cells"])]
                deadline = time.monotonic() + case["seconds"] + PATIENCE_S
                while any(child.exit is None for child in children):
                    expect(
                        time.monotonic() < deadline,
                        f"the cells do not end: {[child.name for child in children if child.exit is None]}",
                    )
                    accounts.look()
                    # In the collector's own thread: nobody takes anything meanwhile. Waited for, so that it gets on in
                    # between however slow this machine is.
                    is_done = host._collector.ask(lambda: _stand_still(children), PATIENCE_S)
                    expect(is_done, "the collector does not answer")
                    for child in children:
                        child.join(0.03)
                answers = [child.result(PATIENCE_S) for child in children]
            expect(reader.statistics().dropped_by_queue == 0, "the queue of the reader was too short")
        for child, answer in zip(children, answers, strict=True):
            self._check_cell(child, answer, notices, POLICIES[case["policy"]], tally)
        tally.counts["looks"] += accounts.looks

    def _check_cell(self, child: Cell, answer: dict[str, int], notices: _Notices, cause: str, tally: Tally) -> None:
        peer_id, statistics = child.peer.peer_id, child.statistics()
        check_at_rest(statistics, child.name)
        bulk = statistics.lanes["bulk"]
        refused = sum(bulk.dropped.values())
        expect(bulk.lost == 0, f"{bulk.lost} records were lost that the host had not taken: {bulk}")
        expect(set(bulk.dropped) <= {cause}, f"refused for other reasons than {cause}: {bulk}")
        announcements, told = notices.announcements[peer_id], notices.told[peer_id]
        expect(
            answer["attempted"] == bulk.emitted - announcements + refused,
            f"{answer['attempted']} attempted, {announcements} announcements: {bulk}",
        )
        expect(told == refused, f"{refused} records were refused, and the stream told of {told}")
        tally.counts[self.unit] += answer["attempted"]
        tally.counts["delivered"] += bulk.delivered
        tally.counts[f"refused: {cause}"] += refused
        tally.counts["announcements"] += announcements
        if cause == "newest":
            tally.samples["cost"].append(answer["pressed_ns"] / answer["idle_ns"])

    def figures(self, tally: Tally) -> str:
        """What the table says."""
        counts = tally.counts
        return (
            f"{counts['delivered']:,} delivered, {counts['refused: newest']:,} dropped as newest and "
            f"{counts['refused: timed_out']:,} after waits, told of in {counts['announcements']:,} announcements; under "
            f"drop_newest an emit took {quantile(tally.samples['cost'], 0.5):.2f} times that of an idle lane"
        )


def _stand_still(children: list[Cell]) -> None:
    children[0]._link.concluded.wait(0.05)
