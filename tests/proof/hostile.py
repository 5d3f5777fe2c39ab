"""A cell that attacks its host with all it has: the others are served as if it were not there."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from roam.exit import ExitKind
from roam.spawn.cell import Cell
from roam.spawn.supervise import spawn_cell
from roam.tracing.config import TracingConfig
from roam.tracing.host import TracingHost
from roam.tracing.records import Lost, TaggedRecord
from tests.programs import resident_bytes
from tests.session import SESSION_DIRECTORY
from tests.support import wait_until

from . import hostile_cells
from .bounds import expect_safe
from .goal import Case, Goal, Tally, expect, quantile
from .load import PATIENCE_S, check_at_rest, check_identity, reading

__all__ = ["HostileCell"]

LATEST_MS = 50.0
GROWTH_BYTES = 16 << 20
LOOK_EVERY_S = 0.02
STOP_TIMEOUT_S = 0.1
"""How long to ask a cell that will not listen, before SIGTERM."""


class _Receiver:
    """Receives every record of the cell that behaves, in order and without a hole, and notes how late they were."""

    def __init__(self) -> None:
        self.peer_id = -1
        self.received = 0
        self.latencies_ms: list[float] = []
        self.others_lost = 0

    def take(self, tagged: TaggedRecord) -> None:
        """The next record of the stream."""
        record = tagged.record
        if tagged.peer.peer_id != self.peer_id:
            self.others_lost += isinstance(record, Lost)
            return
        expect(record.kind in ("event", "span_enter", "span_close"), f"received {record}")
        if record.kind == "event":
            expect(record.fields["number"] == self.received, f"{record} is received after {self.received} records")
            self.received += 1
            self.latencies_ms.append((time.monotonic_ns() - record.fields["sent"]) / 1e6)


class HostileCell(Goal):
    """One hostile cell and one that behaves, under one host, with each kind of hostility in turn."""

    name = "hostile-cell"
    unit = "kinds"
    promise = (
        f"another cell's records all arrive, their p99 over all kinds in <= {LATEST_MS:.0f} ms, or twice that beside a "
        f"busy loop if that is more; the host grows by <= "
        f"{GROWTH_BYTES >> 20} MiB, finds no defect in itself, and stops the cell and writes its post-mortem"
    )
    covers = ("records of the other cell", "losses of the hostile cells", "looks", "post-mortems")
    is_exact = False

    def cases(self, *, small: bool, seed: int) -> Iterator[Case]:
        """Every kind of hostility."""
        for kind in hostile_cells.KINDS:
            yield {"kind": kind, "seconds": 0.4 if small else 6.0, "seed": f"{seed}/{kind}"}

    def check(self, case: Case, tally: Tally) -> None:
        """Let it rage for a while, after a busy loop did that instead for a quarter of the time."""
        directory = Path(tempfile.mkdtemp(dir=SESSION_DIRECTORY))
        receiver = _Receiver()
        try:
            with (
                _silent_stderr(),
                TracingHost(
                    TracingConfig("debug"), segment=hostile_cells.SEGMENT, forward=False, dump_dir=directory
                ) as host,
                reading(host.subscribe("info", capacity=100_000), receiver.take),
            ):
                steady = spawn_cell(hostile_cells.steady, host=host)
                receiver.peer_id = steady.peer.peer_id
                wait_until(lambda: receiver.received, message="the first record of the cell that behaves")
                self._compare(case, host, receiver, tally)
                self._check_steady(steady, receiver, tally)
        finally:
            shutil.rmtree(directory)

    def figures(self, tally: Tally) -> str:
        """What the table says."""
        samples = tally.samples
        return (
            f"emit to subscriber: p99 {quantile(samples['hostile'], 0.99):.1f} ms, most {max(samples['hostile']):.1f} ms "
            f"(beside a busy loop: p99 {quantile(samples['busy'], 0.99):.1f} ms, most {max(samples['busy']):.1f} ms); "
            f"host grew by {max(samples['growth']) / 2**20:.1f} MiB; {tally.counts['losses of the hostile cells']:,} "
            f"losses counted; {tally.counts['post-mortems']} post-mortems"
        )

    def conclude(self, tally: Tally, *, small: bool) -> None:
        """The latency over all kinds of hostility."""
        p99 = quantile(tally.samples["hostile"], 0.99)
        busy = quantile(tally.samples["busy"], 0.99)
        # Where a mere loop makes records as late, it is the machine that has no time.
        expect(
            p99 <= max(LATEST_MS, 2 * busy), f"p99 is {p99:.1f} ms, and {busy:.1f} ms beside a cell that is only busy"
        )

    def _compare(self, case: Case, host: TracingHost, receiver: _Receiver, tally: Tally) -> None:
        busy = spawn_cell(hostile_cells.burn, host=host)
        receiver.latencies_ms.clear()
        time.sleep(case["seconds"] / 4)
        tally.samples["busy"] += receiver.latencies_ms
        busy.kill()
        busy.join()
        hostile = spawn_cell(hostile_cells.rage, case["kind"], case["seed"], host=host)
        wait_until(hostile.records, message="the hostile cell runs")
        receiver.latencies_ms.clear()
        sizes = []
        ends = time.monotonic() + case["seconds"]
        while time.monotonic() < ends:
            for name, lane in hostile.statistics().lanes.items():
                check_identity(lane, f"{name} of the hostile cell")
            hostile.open_spans()
            sizes.append(resident_bytes())
            tally.counts["looks"] += 1
            time.sleep(LOOK_EVERY_S)
        expect(hostile.is_alive(), f"the hostile cell ended by itself: {hostile.exit}")
        latencies = list(receiver.latencies_ms)
        expect(latencies, "nothing was received while the hostile cell raged")
        tally.samples["hostile"] += latencies
        warm = len(sizes) // 3
        growth = max(sizes[warm:]) - sizes[warm]
        tally.samples["growth"].append(growth)
        expect(growth <= GROWTH_BYTES, f"the host grew by {growth >> 10} KiB")
        self._check_end(hostile, host, tally)
        tally.counts[self.unit] += 1
        tally.counts["losses of the hostile cells"] += receiver.others_lost

    def _check_end(self, hostile: Cell, host: TracingHost, tally: Tally) -> None:
        """It can be stopped, what is left of it is there to read, and the host has found no fault with itself."""
        ended = hostile.stop(timeout=STOP_TIMEOUT_S)
        expect(ended.kind in (ExitKind.KILLED_BY_HOST, ExitKind.STOPPED), f"it was stopped, and it {ended.describe()}")
        pm = hostile.post_mortem
        if pm is None:
            raise AssertionError(f"there is no post-mortem of a cell that {ended.describe()}")
        expect_safe(pm.render(), "the report")
        for name, lane in hostile.statistics().lanes.items():
            check_identity(lane, f"{name} of the dead hostile cell")
        failures = host._collector.failures
        expect(failures == 0, f"{failures} exceptions in the collector")
        tally.counts["post-mortems"] += 1

    def _check_steady(self, steady: Cell, receiver: _Receiver, tally: Tally) -> None:
        """Not a record of the other cell is missing anywhere."""
        ended = steady.stop(timeout=PATIENCE_S)
        emitted = steady.result()
        wait_until(lambda: receiver.received >= emitted, message=f"all {emitted} records of the cell that behaves")
        statistics = steady.statistics()
        check_at_rest(statistics, "the cell that behaves")
        for lane in statistics.lanes.values():
            expect(lane.lost == 0 and not lane.dropped and lane.emitted == lane.delivered, f"it lost records: {lane}")
        # Its span is two records.
        bulk = statistics.lanes["bulk"].delivered
        expect(ended.is_normal and bulk == emitted + 2, f"{emitted} records, {bulk} delivered, and {ended.describe()}")
        tally.counts["records of the other cell"] += emitted


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """A standard error that takes all and shows nothing: a host copies there what its cells write."""
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(nowhere)
        os.close(saved)
