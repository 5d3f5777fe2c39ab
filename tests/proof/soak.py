"""A host that lives long: thousands of cells come and go under it, and it stays as it was; and lanes that are old."""

from __future__ import annotations

import gc
import os
import random
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import roam
from roam.exit import ExitKind
from roam.shm.layout import SegmentConfig
from roam.tracing.peers import DEAD_KEPT
from tests.deaths.check import without_standard_error
from tests.session import RUN_ROOT
from tests.support import Inventory, descriptor_targets, session_processes, wait_until

from .boundaries import boundary_cases, check_the_end, kill_at_every_store, kill_writers
from .goal import Case, Goal, Tally, expect
from .old_peers import check_old_peer
from .soak_cells import WAYS, live

__all__ = ["Soak"]

GROWTH_LIMIT_BYTES = 4 << 20
"""By so much the resident memory of the host, and of the fork server, may exceed what it was after the warm-up: 1.7 KB
for each cell of the full form. A cell that was kept would cost the host 20 KB."""
RETAINED_BYTES = 64 << 10
SEGMENT = SegmentConfig(page_bytes=1024, life_pages=2, vital_pages=2, bulk_pages=8, record_bytes=512, span_slots=4)
PATIENCE_S = 60.0
SETTLING_S = 10.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class _Look:
    """What the host's process and its fork server hold at one moment, while no cell lives."""

    inventory: Inventory
    memory_bytes: int
    server_memory_bytes: int
    server_descriptors: int
    peers: int


# r[verify shm.record.commit]
# r[verify shm.page.turn]
# r[verify shm.reader.resume]
class Soak(Goal):
    """Spawn and exit, again and again, under one host; and sequences that cross 2**32 and 2**63."""

    name = "soak"
    unit = "cycles"
    promise = (
        "every end right; descriptors, threads, children, files and memory "
        f"(+{GROWTH_LIMIT_BYTES >> 20} MiB at most after the warm-up) as before; dead peers keep {DEAD_KEPT} peers and "
        f"{RETAINED_BYTES >> 10} KiB at most; numbers cross 2**32 and 2**63 with every record delivered or counted"
    )
    covers = (
        "records given up",
        "kills near a boundary",
        "sequence boundaries crossed",
        "page boundaries crossed",
        "laps near a boundary",
    )
    is_exact = False

    def cases(self, *, small: bool, seed: int) -> Iterator[Case]:
        """3,000 cycles, 40 in the small form; then the boundaries."""
        cycles, warm_up, look_every = (40, 20, 10) if small else (3_000, 600, 100)
        yield {"way": "cycles", "cycles": cycles, "warm_up": warm_up, "look_every": look_every, "seed": seed}
        yield from boundary_cases(small=small, seed=seed)

    def check(self, case: Case, tally: Tally) -> None:
        """All cycles, or one crossing."""
        if case["way"] == "cycles":
            _run_cycles(case, tally)
        elif case["way"] == "stores":
            kill_at_every_store(case, tally)
        elif case["way"] == "kills":
            kill_writers(case, tally)
        elif case["way"] == "host":
            check_old_peer(case, tally)
        else:
            check_the_end()

    def figures(self, tally: Tally) -> str:
        """What the table says."""
        samples = tally.samples
        growth = [max(samples[f"{who}, KiB"]) for who in ("host", "fork server")]
        return (
            f"after the warm-up the host grew by {growth[0]:,.0f} KiB at most, the fork server by {growth[1]:,.0f} KiB, "
            f"neither by a descriptor; {max(samples['peers']):,.0f} peers remembered at most; {super().figures(tally)}"
        )


def _run_cycles(case: Case, tally: Tally) -> None:
    """Two cells at a time, and now and then a look at what there is when none lives."""
    source = random.Random(case["seed"])
    plan = list(enumerate(source.choices(WAYS, weights=(4, 2, 1, 1), k=case["cycles"])))
    step = case["look_every"]
    with (
        without_standard_error(),
        tempfile.TemporaryDirectory(prefix="roam-soak-") as place,
        roam.TracingHost(
            segment=SEGMENT,
            dump_dir=place,
            forward=False,
            retain_bytes=RETAINED_BYTES // 4,
            retain_total_bytes=RETAINED_BYTES,
        ) as host,
        ThreadPoolExecutor(2) as pool,
    ):
        first: _Look | None = None
        for at in range(0, len(plan), step):
            for problem in pool.map(partial(_live_and_die, host), plan[at : at + step]):
                expect(not problem, problem)
                tally.counts["cycles"] += 1
            expect(not os.listdir(place), f"files that no handle knew of: {os.listdir(place)}")
            if first is not None:
                _compare(first, _look(host, first.inventory), at + step, tally)
            elif at + step >= case["warm_up"]:
                first = _look(host)
        tally.counts["records given up"] += host.statistics().evicted


def _live_and_die(host: roam.TracingHost, planned: tuple[int, str]) -> str:
    """One cell from its start to its end. Returns what was wrong."""
    number, way = planned
    cell = roam.spawn_cell(live, number, way, host=host)
    if way == "kill()":
        wait_until(lambda: cell.records(1) and cell.records(1)[-1].message == "ready", PATIENCE_S)
        cell.kill()
    ended = cell.join(PATIENCE_S)
    if ended is None:
        cell.kill()
        return f"cycle {number}: {way} did not end within {PATIENCE_S} s"
    expected = {
        "return": (ExitKind.RETURNED, 0, False),
        "raise": (ExitKind.RAISED, 1, True),
        "SIGKILL": (ExitKind.SIGNALED, -9, True),
        "kill()": (ExitKind.KILLED_BY_HOST, -9, True),
    }[way]
    found = ended.kind, ended.exitcode, cell.dump_path is not None
    if cell.dump_path is not None:
        cell.dump_path.unlink()
    if way == "return" and cell.result() != number:
        return f"cycle {number} returned {cell.result()}"
    return "" if found == expected else f"cycle {number}, {way}: {found} instead of {expected}"


def _look(host: roam.TracingHost, before: Inventory | None = None) -> _Look:
    """See what there is: with `before`, once nothing is there any more that was not there then."""
    retained_bytes = host.statistics().retained_bytes
    expect(retained_bytes <= RETAINED_BYTES, f"{retained_bytes} bytes of the dead are kept, of {RETAINED_BYTES}")
    peers = len(host.peers)
    expect(peers <= DEAD_KEPT + 1, f"{peers} peers are remembered, where the dead may be {DEAD_KEPT}")
    expect(not host.cells, f"cells that have ended are said to live: {host.cells}")
    if before is None:
        now = Inventory.take(RUN_ROOT)
    else:
        now, news = before.wait_for_no_news(RUN_ROOT, SETTLING_S)
        expect(not news, "more than before: " + "; ".join(news))
    gc.collect()
    server = _fork_server()
    return _Look(now, _resident_bytes(os.getpid()), _resident_bytes(server), len(descriptor_targets(server)), peers)


def _fork_server() -> int:
    """The pid of the process that the cells are forked from: of the helpers, the one that is no resource tracker."""
    for pid in session_processes()[1]:
        if b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError("there is no fork server")


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def _compare(first: _Look, now: _Look, cycles: int, tally: Tally) -> None:
    for who, before, after in (
        ("host", first.memory_bytes, now.memory_bytes),
        ("fork server", first.server_memory_bytes, now.server_memory_bytes),
    ):
        growth = after - before
        tally.samples[f"{who}, KiB"].append(growth / 1024)
        expect(growth <= GROWTH_LIMIT_BYTES, f"the {who} has grown by {growth:,} bytes after {cycles} cycles")
    more = now.server_descriptors - first.server_descriptors
    expect(more <= 0, f"the fork server has {more} descriptors more after {cycles} cycles", cycles=cycles)
    tally.samples["peers"].append(now.peers)
