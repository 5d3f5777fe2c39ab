"""Death by death through the public API: every kind of end is called by its right name, and loses nothing."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import roam
from roam.exit import ExitKind
from tests.deaths.check import Ended, Outcome, end, examine, without_standard_error
from tests.deaths.planted import DEATHS

from .goal import Case, Goal, Tally, expect, quantile

__all__ = ["Deaths"]

DEATHS_OF_A_CASE = 10
"""So many share a host."""
SPAWN_SHARE = 0.15
"""Of the cells, those that are started by `spawn`; the rest comes from the fork server. None is forked: the two that
die at a time are started by two threads, and what a thread forks may be born with another's lock held."""
TO_THE_DUMP = "death to dump, ms"

KINDS = [name for name, planted in DEATHS.items() if planted.death.is_for_company]


# r[verify spawn.concluded]
# r[verify spawn.status]
class Deaths(Goal):
    """Deaths of every kind."""

    name = "deaths"
    unit = "deaths"
    promise = (
        f"{len(KINDS)} kinds, two at a time: exit kind, code or signal, verdict, every record up to the last, spans and "
        "stack right every time; a dump exactly where one is due; nothing left behind"
    )
    covers = ("dumps", *(kind.value for kind in ExitKind if kind not in (ExitKind.LOST, ExitKind.START_FAILED)))
    is_exact = False

    def cases(self, *, small: bool, seed: int) -> Iterator[Case]:
        """500 deaths; in the small form one of every kind."""
        source = random.Random(seed)
        planned: list[tuple[str, str]] = []
        for _ in range(-(-len(KINDS) // DEATHS_OF_A_CASE) if small else 50):
            while len(planned) < DEATHS_OF_A_CASE:
                kinds = list(KINDS)
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
                    problems = _note(examine(one), tally)
                    expect(not problems, f"{death}, {method}: {problems}", deaths=[list(planned) for planned in pair])
            left = sorted(os.listdir(place))
            expect(not left, f"files beside the dumps: {left}")
            kept = sorted(set(os.listdir(host.run_dir)) - own_files)
            expect(not kept, f"of the dead cells the run directory still has {kept}")

    def figures(self, tally: Tally) -> str:
        """What the table says."""
        values = tally.samples[TO_THE_DUMP]
        return (
            f"{tally.counts['dumps']:,} dumps, from the death of the process to the dump: "
            f"median {quantile(values, 0.5):.1f} ms, p99 {quantile(values, 0.99):.1f} ms, "
            f"most {quantile(values, 1.0):.1f} ms; {super().figures(tally).partition(', ')[2]}"
        )


def _end(host: roam.TracingHost, planned: tuple[str, str]) -> Ended:
    death, method = planned
    return end(host, method, death)


def _note(outcome: Outcome, tally: Tally) -> str:
    """Count a death, and say what was wrong with it."""
    if outcome.problems or outcome.exit is None:
        return "; ".join(outcome.problems) or "no end"
    tally.counts["deaths"] += 1
    tally.counts[outcome.exit.kind.value] += 1
    if outcome.has_dump:
        tally.counts["dumps"] += 1
        if outcome.to_dump_ms is not None:
            tally.samples[TO_THE_DUMP].append(outcome.to_dump_ms)
    return ""
