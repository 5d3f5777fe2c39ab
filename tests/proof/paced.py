"""Load that the rings are made for: nothing is lost, and the host has time to spare."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from roam.spawn.cell import Cell
from roam.spawn.supervise import spawn_cell
from roam.tracing.collector import PARK_S
from roam.tracing.config import TracingConfig
from roam.tracing.host import TracingHost
from roam.tracing.records import Lost, TaggedRecord

from . import cells
from .goal import Case, Goal, Tally, expect, quantile
from .load import PATIENCE_S, Accounts, check_at_rest, check_balance, reading

__all__ = ["PacedLoad"]

LOOK_EVERY_S = 0.1
CAPACITY = 200_000
LONE_RECORDS, LONE_PAUSE_S = 6, 1.5 * PARK_S
"""Far enough apart that no record's ring helps the one before it."""
SOON_MS = PARK_S * 1000 / 2
"""A record that has to wait until the host looks at the peers that sleep takes longer, more often than not."""
SAMPLE_EVERY = 16
"""The latency of so many records is measured once."""


class _Receiver:
    """Receives every record of every cell, in order and without a hole."""

    def __init__(self) -> None:
        self.latencies_ms: list[float] = []
        self.lone_ms: defaultdict[str, list[float]] = defaultdict(list)
        """Of the records that come alone, by what each comes after."""
        self.received: Counter[int] = Counter()

    def take(self, tagged: TaggedRecord) -> None:
        """The next record of the stream."""
        record, peer_id = tagged.record, tagged.peer.peer_id
        expect(not isinstance(record, Lost), f"{record} of {tagged.peer}; load of the machine: {os.getloadavg()}")
        number = record.fields["number"]
        expect(number == self.received[peer_id], f"record {number} of {tagged.peer} after {self.received[peer_id] - 1}")
        self.received[peer_id] += 1
        after = record.fields.get("after")
        if after is not None or number % SAMPLE_EVERY == 0:
            latencies = self.latencies_ms if after is None else self.lone_ms[after]
            latencies.append((time.monotonic_ns() - record.fields["sent"]) / 1e6)


# r[verify shm.doorbell.once]
class PacedLoad(Goal):
    """Cells that emit at a fixed rate, asleep in between.

    Holds on a machine that lets the host run: a ring of the default size takes what such a cell writes in two
    seconds, and a host that other programs keep from running for longer does lose records. How full the fullest
    ring was is one of the figures.
    """

    name = "paced-load"
    unit = "records"
    promise = (
        "0 lost; emitted == delivered == received, in order, by every cell; one ring for each park of the host, which "
        f"parks in every pause; a record after it, or just before the host parks, takes < {SOON_MS:.0f} ms (median); one "
        "whose ring is lost is found"
    )
    covers = ("looks", "rings", "records just before a park")
    is_exact = False

    def cases(self, *, small: bool, seed: int) -> Iterator[Case]:
        """One load."""
        if small:
            yield {"cells": 4, "rate": 500, "seconds": 1.0, "pauses": 3, "pause_s": 0.15}
        else:
            yield {"cells": 8, "rate": 5_000, "seconds": 30.0, "pauses": 20, "pause_s": 0.15}

    def check(self, case: Case, tally: Tally) -> None:
        """Load a host, and another one with a cell that always comes just before it parks."""
        self._check_load(case, tally)
        self._check_windows(tally)

    def _check_load(self, case: Case, tally: Tally) -> None:
        receiver = _Receiver()
        plan = (case["rate"], case["seconds"], case["pauses"], case["pause_s"])
        with TracingHost(TracingConfig("info"), forward=False) as host:
            subscription = host.subscribe(capacity=CAPACITY)
            accounts = Accounts(host)
            with reading(subscription, receiver.take):
                children = [spawn_cell(cells.paced, *plan, host=host) for _ in range(case["cells"])]
                until = time.monotonic() + case["seconds"]
                before = time.process_time(), time.monotonic()
                with ThreadPoolExecutor(len(children)) as pool:
                    answers = [pool.submit(child.result, case["seconds"] + PATIENCE_S) for child in children]
                    while not all(answer.done() for answer in answers):
                        accounts.look()
                        if time.monotonic() < until:
                            after = time.process_time(), time.monotonic()
                        time.sleep(LOOK_EVERY_S)
            for child, answer in zip(children, answers, strict=True):
                self._check_cell(child, answer.result(), receiver, tally)
                expect(
                    answer.result()["rings"] >= case["pauses"], f"{child.name} rang {answer.result()['rings']} times"
                )
            check_balance(subscription)
        tally.counts["looks"] += accounts.looks
        tally.samples["share"].append((after[0] - before[0]) / (after[1] - before[1]))
        tally.samples["rate"].append(case["cells"] * case["rate"])
        tally.samples["resident"].append(accounts.most_resident)
        tally.samples["latency"] += receiver.latencies_ms
        _expect_soon(receiver.lone_ms["pause"], "after a pause")

    def _check_windows(self, tally: Tally) -> None:
        """Records that come when the host has looked for the last time, and has not said yet that it sleeps: no ring
        tells of them."""
        receiver = _Receiver()
        with TracingHost(TracingConfig("info"), forward=False) as host:
            with reading(host.subscribe(capacity=CAPACITY), receiver.take):
                child = spawn_cell(cells.lone, LONE_RECORDS, LONE_PAUSE_S, host=host)
                _arm_late(child, tally)
                child.result(PATIENCE_S)
            expect(receiver.received[child.peer.peer_id] == LONE_RECORDS, f"received: {receiver.received}")
        _expect_soon(receiver.lone_ms["window"], "just before the host parked")

    def figures(self, tally: Tally) -> str:
        """What the table says."""
        latencies = tally.samples["latency"]
        return (
            f"{max(tally.samples['rate']):,.0f} records a second; host, a subscriber included: "
            f"{max(tally.samples['share']):.0%} of a core; emit to subscriber: median {quantile(latencies, 0.5):.1f} ms, "
            f"p99 {quantile(latencies, 0.99):.1f} ms, most {max(latencies):.1f} ms; at most "
            f"{max(tally.samples['resident']):,.0f} records waited in a ring; {tally.counts['rings']:,} rings"
        )

    def _check_cell(self, child: Cell, answer: dict[str, int], receiver: _Receiver, tally: Tally) -> None:
        """Hold a cell's own counts, the host's and the receiver's against each other."""
        statistics = child.statistics()
        check_at_rest(statistics, child.name)
        emitted, received = answer["emitted"], receiver.received[child.peer.peer_id]
        for lane in statistics.lanes.values():
            expect(
                lane.emitted == lane.delivered and not lane.dropped,
                f"{child.name} lost records: {lane}; load of the machine: {os.getloadavg()}",
            )
        bulk = statistics.lanes["bulk"]
        expect(emitted == bulk.emitted == received, f"{emitted} emitted, {bulk}, {received} received")
        mistakes = ("repeated rings", "missed rings", "pauses without a park", "records that nobody looked for")
        for mistake in mistakes:
            expect(answer[mistake] == 0, f"{answer[mistake]} {mistake} of {child.name}")
        tally.counts[self.unit] += emitted
        tally.counts["rings"] += answer["rings"]


def _expect_soon(latencies_ms: list[float], when: str) -> None:
    median = quantile(latencies_ms, 0.5)
    expect(median < SOON_MS, f"a record {when} took {median:.1f} ms; load of the machine: {os.getloadavg()}")


def _arm_late(child: Cell, tally: Tally) -> None:
    """From now on the host waits for the next record of a cell, when it has looked, before it says that it sleeps.

    Every other time: the cell has not rung for such a park, and so would ring for it in the next window.
    """
    link = child._link
    arm = link.arm
    is_late = False

    def wait_and_arm() -> None:
        nonlocal is_late
        is_late = not is_late
        deadline = time.monotonic() + 2 * LONE_PAUSE_S
        while is_late and not link.has_stirred() and time.monotonic() < deadline:
            time.sleep(0.001)
        tally.counts["records just before a park"] += link.has_stirred()
        arm()

    vars(link)["arm"] = wait_and_arm
