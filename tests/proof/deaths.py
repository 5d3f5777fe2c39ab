"""Death by death through the public API: every kind of end is called by its right name, and loses nothing."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import roam
from roam.exit import ExitKind
from tests.deaths.__main__ import without_standard_error
from tests.deaths.check import PATIENCE_S, Outcome, begin, conclude, provoke
from tests.deaths.targets import DEATHS

from .goal import Case, Goal, Tally, expect, quantile

__all__ = ["Deaths"]

DEATHS_OF_A_CASE = 10
"""So many share a host."""
SPAWN_SHARE = 0.15
"""Of the cells, those that are started by `spawn`; the rest comes from the fork server. None is forked: the two that
die at a time are started by two threads, and what a thread forks may be born with another's lock held."""
TO_THE_DUMP = "death to dump, ms"

Planned = tuple[str, str]
"""A death and its start method."""


@dataclass
class _Ended:
    """A cell that is dead, and when it died and was known to be dead, on the monotonic clock."""

    cell: roam.Cell
    provoked_ns: int | None
    known_ns: int


# r[verify spawn.concluded]
# r[verify spawn.status]
class Deaths(Goal):
    """Deaths of every kind."""

    name = "deaths"
    unit = "deaths"
    promise = (
        f"{len(DEATHS)} kinds, two at a time: exit kind, code or signal, every record up to the last, spans and stack "
        "right every time; a dump exactly where one is due; nothing left behind"
    )
    covers = ("dumps", *(kind.value for kind in ExitKind if kind not in (ExitKind.LOST, ExitKind.START_FAILED)))
    is_exact = False

    def cases(self, *, small: bool, seed: int) -> Iterator[Case]:
        """500 deaths; 30 in the small form, every kind among them."""
        source = random.Random(seed)
        planned: list[Planned] = []
        for _ in range(3 if small else 50):
            while len(planned) < DEATHS_OF_A_CASE:
                kinds = list(DEATHS)
                source.shuffle(kinds)
                planned += [(kind, "spawn" if source.random() < SPAWN_SHARE else "forkserver") for kind in kinds]
            yield {"deaths": [list(pair) for pair in planned[:DEATHS_OF_A_CASE]]}
            del planned[:DEATHS_OF_A_CASE]

    def check(self, case: Case, tally: Tally) -> None:
        """Some deaths under one host, two at a time."""
        planned = [(death, method) for death, method in case["deaths"]]
        with (
            without_standard_error(),
            tempfile.TemporaryDirectory(prefix="roam-deaths-") as place,
            roam.TracingHost(dump_dir=place, forward=False) as host,
            ThreadPoolExecutor(2) as pool,
        ):
            own_files = set(os.listdir(host.run_dir))
            for at in range(0, len(planned), 2):
                pair = planned[at : at + 2]
                # Both are dead before one is examined: loading a dump would take the interpreter from the other.
                ended = list(pool.map(partial(_end, host), pair))
                for one, (death, method) in zip(ended, pair, strict=True):
                    problems = _note(one, conclude(one.cell, death), tally)
                    expect(not problems, f"{death}, {method}: {problems}", deaths=[list(planned) for planned in pair])
            left = sorted(os.listdir(place))
            expect(not left, f"files beside the dumps: {left}")
            kept = sorted(set(os.listdir(host.run_dir)) - own_files)
            expect(not kept, f"of the dead cells the run directory still has {kept}")

    def figures(self, tally: Tally) -> str:
        """What the table says."""
        values = tally.samples[TO_THE_DUMP]
        return (
            f"{tally.counts['dumps']:,} dumps, from the last record of the cell to the dump: "
            f"median {quantile(values, 0.5):.1f} ms, p99 {quantile(values, 0.99):.1f} ms, "
            f"most {quantile(values, 1.0):.1f} ms; {super().figures(tally).partition(', ')[2]}"
        )


def _end(host: roam.TracingHost, planned: Planned) -> _Ended:
    death, method = planned
    cell = begin(host, method, death)
    provoked_ns = provoke(cell, death)
    # A cell that hangs is for `conclude` to find.
    cell.join(PATIENCE_S)
    return _Ended(cell, provoked_ns, time.monotonic_ns())


def _note(one: _Ended, outcome: Outcome, tally: Tally) -> str:
    """Count a death, and say what was wrong with it."""
    ended = one.cell.exit
    if outcome.problems or ended is None or outcome.died_ns is None:
        return "; ".join(outcome.problems) or "no end"
    tally.counts["deaths"] += 1
    tally.counts[ended.kind.value] += 1
    if one.cell.dump_path is not None:
        tally.counts["dumps"] += 1
        tally.samples[TO_THE_DUMP].append((one.known_ns - (one.provoked_ns or outcome.died_ns)) / 1e6)
    return ""
