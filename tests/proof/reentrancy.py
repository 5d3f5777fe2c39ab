"""Re-entrancy: a cell in which everything emits within everything else, and what its host gets of it.

The cell (`reentrancy_cell`) keeps books of its own. Here its records are taken as a subscriber gets them, and held
against the books, the numbers of the host, and each other. Where a lane was too small for its records, what is missing
was overwritten and the sums have to agree; where nothing was overwritten, each record is accounted for by itself.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import roam
from roam.tracing.records import Dropped, Event, Lost, Record
from roam.tracing.statistics import PeerStatistics

from .goal import Case, Goal, Tally, expect
from .reentrancy_cell import GARBAGE, HANDLER, MAIN, MESSAGE, run

__all__ = ["Reentrancy"]

SIZES = {
    "roomy": roam.SegmentConfig(bulk_pages=768, vital_pages=64, span_slots=1),
    "tight": roam.SegmentConfig(page_bytes=1024, bulk_pages=8, vital_pages=4, record_bytes=512, span_slots=1),
}
"""One that holds all the records of a case, and one that is lapped all the time."""
CONFIGS = (roam.TracingConfig("info"), roam.TracingConfig("debug"))
"""Put in force in turns; they let through the same records."""
CONFIG_PAUSE_S = 0.02
SILENCE_S = 20.0
"""A cell that has emitted nothing for so long is in a deadlock."""
PATIENCE_S = 60.0


# r[verify shm.record.commit]
# r[verify shm.writer.owner]
# r[verify shm.dropped.announced]
class Reentrancy(Goal):
    """Emits within emits."""

    name = "re-entrancy"
    unit = "emits"
    promise = (
        "no deadlock, no lock left taken; every emit that returned is delivered or counted by cause, an interrupted one "
        "is wholly there or not; each source in order; drops told of exactly, in front of the next record; children, also of forks "
        "in C, silent"
    )
    covers = (
        "interrupts",
        "in handlers",
        "in garbage",
        "forks",
        "forks in C",
        "dropped as nested",
        "configurations",
        "interrupted and there",
        "interrupted and not there",
        "overwritten",
    )
    is_exact = False

    def cases(self, *, small: bool, seed: int) -> Iterator[Case]:
        """A million emits and 5,000 interrupts; 20,000 and 250 in the small form. The seed decides which cases are short
        of room; nothing decides when signals come."""
        every = 2 if small else 5
        for number in range(2 if small else 10):
            emits, interrupts = (10_000, 125) if small else (100_000, 500)
            size = "tight" if number % every == seed % every else "roomy"
            yield {"number": number, "emits": emits, "interrupts": interrupts, "size": size}

    def check(self, case: Case, tally: Tally) -> None:
        """One cell, from its start to its account."""
        ledger = _Ledger()
        with roam.TracingHost(CONFIGS[0], segment=SIZES[case["size"]], forward=False) as host:
            with host.subscribe(capacity=10 * case["emits"] + 1_000_000) as subscription:
                cell = roam.spawn_cell(run, case["emits"], case["interrupts"], PATIENCE_S, host=host)
                tally.counts["configurations"] += _follow(host, cell, subscription, ledger)
                while (tagged := subscription.get(timeout=0)) is not None:
                    ledger.take_from(cell.name, tagged)
                expect(subscription.statistics().dropped_by_queue == 0, "the subscriber's queue was too short")
            account = json.loads(cell.result(PATIENCE_S))
            statistics = cell.statistics()
            spans = cell.open_spans()
        expect(not spans, f"in the table of the parent, which opened none: {spans[:3]}")
        expect(not statistics.spans_overflowed, f"{statistics.spans_overflowed} spans of children are counted")
        expect(not account["problems"], "; ".join(account["problems"][:5]))
        _Audit(account, ledger, statistics).run(tally)

    def conclude(self, tally: Tally, *, small: bool) -> None:
        """All of it happened as often as is said."""
        for name, least in ((self.unit, 10**6), ("interrupts", 5_000)):
            expect(small or tally.counts[name] >= least, f"only {tally.counts[name]:,} {name}")


def _follow(host: roam.TracingHost, cell: roam.Cell, subscription: Any, ledger: _Ledger) -> int:
    """Take what the cell emits until it has ended, and give it configurations; returns how many."""
    heard = pushed = time.monotonic()
    count = 0
    while cell.is_alive():
        tagged = subscription.get(timeout=0.01)
        now = time.monotonic()
        if tagged is not None:
            heard = now
            ledger.take_from(cell.name, tagged)
        if now - heard > SILENCE_S:
            # With all its stacks in the post-mortem.
            os.kill(cell.pid, signal.SIGABRT)
            cell.join(PATIENCE_S)
            expect(False, f"nothing for {SILENCE_S} s: a deadlock\n{_report(cell)}")
        if now - pushed > CONFIG_PAUSE_S:
            pushed = now
            count += 1
            host.set_config(CONFIGS[count % 2], timeout=0)
    ended = cell.join()
    if ended is None or not ended.is_normal:
        expect(False, f"the cell ended: {ended and ended.describe()}\n{_report(cell)}")
    return count


def _report(cell: roam.Cell) -> str:
    pm = cell.post_mortem
    return pm.render(last=20) if pm is not None else "without a post-mortem"


class _Ledger:
    """What came of one cell, record by record; the order is checked as they come."""

    def __init__(self) -> None:
        self.seen: defaultdict[int, set[int]] = defaultdict(set)
        """The numbers that came, by source."""
        self.lost: defaultdict[str, list[range]] = defaultdict(list)
        """What is said to be overwritten, by lane. A notice has its place by the time when the host found out, which can
        be before or behind the place of the records."""
        self.missing: defaultdict[str, list[range]] = defaultdict(list)
        """What did not come between what came."""
        self.told: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """What `Dropped` records tell of, by lane and cause."""
        self.next_seq: Counter[str] = Counter()
        self._newest_ns: Counter[str] = Counter()
        self._newest: Counter[tuple[int, str]] = Counter()

    def take_from(self, name: str, tagged: roam.TaggedRecord) -> None:
        """The next record that a subscriber got; those of the host itself do not count."""
        if tagged.peer.name == name:
            self._take(tagged.record)

    def _take(self, record: Record) -> None:
        lane = record.lane
        if isinstance(record, Lost):
            expect(record.cause == "overwritten" and record.first_seq is not None, f"{record}")
            self.lost[lane].append(range(record.first_seq, record.first_seq + record.count))
            return
        expect(record.seq >= self.next_seq[lane], f"{record} came after {self.next_seq[lane] - 1} of {lane}")
        if record.seq > self.next_seq[lane]:
            self.missing[lane].append(range(self.next_seq[lane], record.seq))
        self.next_seq[lane] = record.seq + 1
        expect(record.time_ns > self._newest_ns[lane], f"{record} is not later than the one before it")
        self._newest_ns[lane] = record.time_ns
        if isinstance(record, Dropped):
            self.told[lane].update(record.counts)
            return
        expect(isinstance(record, Event) and record.message == MESSAGE, f"nobody emitted {record}")
        source, number, drops = (record.fields[name] for name in ("source", "number", "drops"))
        expect(source <= GARBAGE, f"{record} is of a forked child")
        expect(number > self._newest[source, lane], f"source {source}: {number} after {self._newest[source, lane]}")
        self._newest[source, lane] = number
        self.seen[source].add(number)
        if lane == "bulk" and not self.missing[lane]:
            told = self.told[lane]["sampled"]
            expect(told >= drops, f"{record}: of {drops} drops that were counted before it only {told} were told of")


class _Audit:
    """The books of the cell, what came of it, and the numbers of the host."""

    def __init__(self, account: dict[str, Any], ledger: _Ledger, statistics: PeerStatistics) -> None:
        self.account = account
        self.ledger = ledger
        self.statistics = statistics
        self.dropped: Counter[str] = Counter()
        for lane in statistics.lanes.values():
            self.dropped.update(lane.dropped)

    def run(self, tally: Tally) -> None:
        """Raises `Broken` where they do not agree."""
        self._check_lanes()
        self._check_sums()
        self._check_interrupts()
        lost = sum(lane.lost for lane in self.statistics.lanes.values())
        if not lost:
            self._check_each(tally)
        begun, happened = self.account["begun"], self.account["counts"]
        counts = tally.counts
        counts["emits"] += sum(begun)
        counts["in handlers"] += begun[HANDLER]
        counts["in garbage"] += begun[GARBAGE]
        counts["interrupts"] += happened["interrupts"]
        counts["forks"] += happened["forks"]
        counts["forks in C"] += happened["forks in C"]
        counts["dropped as nested"] += self.dropped["nested"]
        counts["overwritten"] += lost

    def _check_lanes(self) -> None:
        for name, lane in self.statistics.lanes.items():
            expect(lane.emitted == lane.delivered + lane.lost and not lane.resident, f"{name}: {lane}")
            missing = [*self.ledger.missing[name], range(self.ledger.next_seq[name], lane.emitted)]
            lost = {seq for gap in self.ledger.lost[name] for seq in gap}
            expect(
                lost == {seq for gap in missing for seq in gap}, f"{name}: lost {self.ledger.lost[name]}, not {missing}"
            )
            expect(
                lane.lost == len(lost) == sum(map(len, self.ledger.lost[name])), f"{name}: {lane}, {len(lost)} told of"
            )
            if not lane.lost:
                told = dict(self.ledger.told[name])
                expect(told == lane.dropped, f"{name}: {told} was told of, and {lane.dropped} was dropped")

    def _check_sums(self) -> None:
        """What was begun was emitted or dropped; `Dropped` records, of which there is one for a drop at most, beside it."""
        account, dropped = self.account, self.dropped
        sampled = range(account["drops"], account["drops"] + account["unsure_drops"] + 1)
        expect(dropped["sampled"] in sampled, f"{dropped['sampled']} drops of a number in {sampled}")
        refused = dropped.total() - dropped["sampled"]
        emitted = sum(lane.emitted for lane in self.statistics.lanes.values())
        begun, unsure = sum(account["begun"]), sum(map(len, account["unsure"]))
        expect(
            begun - unsure <= emitted + refused <= begun + dropped.total(),
            f"{begun} begun, {unsure} of them interrupted; {emitted} emitted, {dict(dropped)} dropped",
        )

    def _check_interrupts(self) -> None:
        """None was swallowed on its way."""
        counts = self.account["counts"]
        known = counts.get("interrupts caught", 0) + counts.get("interrupts in garbage", 0)
        expect(known == counts["interrupts"], f"{counts['interrupts']} interrupts, of which {known} arrived")

    def _check_each(self, tally: Tally) -> None:
        """Nothing was overwritten: what did not come was dropped, or interrupted before it was written."""
        missing = missing_unsure = 0
        for source, begun in enumerate(self.account["begun"]):
            unsure, seen = set(self.account["unsure"][source]), self.ledger.seen[source]
            expect(source in (MAIN, GARBAGE) or not unsure, f"source {source} was interrupted")
            expect(not seen or max(seen) <= begun, f"source {source} never began {max(seen, default=0)}")
            missing += begun - len(unsure) - len(seen - unsure)
            missing_unsure += len(unsure - seen)
            tally.counts["interrupted and there"] += len(unsure & seen)
        tally.counts["interrupted and not there"] += missing_unsure
        refused = self.dropped.total() - self.dropped["sampled"]
        expect(
            missing <= refused <= missing + missing_unsure,
            f"{missing} records that were written did not come, and {missing_unsure} that were interrupted; "
            f"{dict(self.dropped)} are dropped",
        )
