"""Load that the rings are made for: nothing is lost, and the host has time to spare."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from roam.spawn.cell import Cell
from roam.spawn.supervise import spawn_cell
from roam.tracing.config import TracingConfig
from roam.tracing.host import TracingHost
from roam.tracing.records import Lost, TaggedRecord

from . import cells
from .goal import Case, Goal, Tally, expect, quantile
from .load import PATIENCE_S, Accounts, check_at_rest, check_balance, reading

__all__ = ["PacedLoad"]

LOOK_EVERY_S = 0.1
CAPACITY = 200_000
SAMPLE_EVERY = 16
"""The latency of so many records is measured once."""


class _Receiver:
    """Receives every record of every cell, in order and without a hole."""

    def __init__(self) -> None:
        self.latencies_ms: list[float] = []
        self.received: Counter[int] = Counter()

    def take(self, tagged: TaggedRecord) -> None:
        """The next record of the stream."""
        record, peer_id = tagged.record, tagged.peer.peer_id
        expect(not isinstance(record, Lost), f"{record} of {tagged.peer}; load of the machine: {os.getloadavg()}")
        number = record.fields["number"]
        expect(number == self.received[peer_id], f"record {number} of {tagged.peer} after {self.received[peer_id] - 1}")
        self.received[peer_id] += 1
        if number % SAMPLE_EVERY == 0:
            self.latencies_ms.append((time.monotonic_ns() - record.fields["sent"]) / 1e6)


# r[verify shm.doorbell.once]
class PacedLoad(Goal):
    """Cells that emit at a fixed rate, asleep in between.

    Holds on a machine that lets the host run: a ring of the default size takes what such a cell writes in two
    seconds, and a host that other programs keep from running for longer does lose records. How full the fullest
    ring was is one of the figures.
    """

    name = "paced-load"
    unit = "records"
    promise = "0 lost; emitted == delivered == received, in order, by every cell; one ring for each park of the host"
    covers = ("looks", "rings")
    is_exact = False

    def cases(self, *, small: bool, seed: int) -> Iterator[Case]:
        """One load."""
        if small:
            yield {"cells": 4, "rate": 500, "seconds": 1.0, "pauses": 3, "pause_s": 0.15}
        else:
            yield {"cells": 8, "rate": 5_000, "seconds": 30.0, "pauses": 20, "pause_s": 0.15}

    def check(self, case: Case, tally: Tally) -> None:
        """Load a host."""
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
            check_balance(subscription)
        tally.counts["looks"] += accounts.looks
        tally.samples["share"].append((after[0] - before[0]) / (after[1] - before[1]))
        tally.samples["rate"].append(case["cells"] * case["rate"])
        tally.samples["resident"].append(accounts.most_resident)
        tally.samples["latency"] += receiver.latencies_ms

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
        for mistake in ("repeated rings", "missed rings"):
            expect(answer[mistake] == 0, f"{answer[mistake]} {mistake} of {child.name}")
        tally.counts[self.unit] += emitted
        tally.counts["rings"] += answer["rings"]
