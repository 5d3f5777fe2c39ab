"""What an emit costs a cell that writes ten times what its lane holds while its host stands still.

The host is a process of its own, `python -m benchmarks.overload POLICY ROUNDS COUNT`, because the cell stops it. In each
round the cell emits as much as there is room for, under the default configuration, and then ten times what there is room
for. At the end the host prints what an emit took and what became of every record as one line of JSON.
"""

from __future__ import annotations

import functools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import multiprocess

import roam

from . import loops
from .table import Measured, Pairs, median_ratio, medians, time_ns

__all__ = ["POLICIES", "account", "overload"]

ROOM_COUNT = 4_000
"""The lane holds about twice as many."""
OVERLOAD_COUNT = 80_000
WAIT_S = 0.05
PATIENCE_S = 60.0

POLICIES: dict[str, dict[str, Any]] = {
    "drop_oldest": {"overflow": "drop_oldest"},
    "drop_newest": {"overflow": "drop_newest"},
    "block": {"overflow": f"block({WAIT_S})"},
    "sampling": {"sample": {"benchmarks": 0.05}},
}


def host_of_pressed_cell(policy: str, rounds: int, count: int) -> dict[str, Any]:
    """Let a cell emit with room and without, in turns. The ring is as large as it is by default."""
    idle, pressed = roam.TracingConfig("info"), roam.TracingConfig("info", **POLICIES[policy])
    here, there = multiprocess.Pipe()
    with (
        roam.TracingHost(config=idle, forward=False) as host,
        host.subscribe("warning,roam=info", capacity=100_000) as notices,
    ):
        cell = roam.spawn_cell(loops.emit_under_pressure, there, os.getpid(), host=host, start_method="spawn")
        there.close()
        took: dict[str, list[list[int]]] = {"idle": [], "pressed": []}
        for _ in range(rounds + 1):
            for config, phase, emits in ((idle, "idle", ROOM_COUNT), (pressed, "pressed", count)):
                cell.set_config(config, timeout=0.0)
                here.send(emits)
                took[phase].append(here.recv())
                await_empty_lane(cell)
        here.send(0)
        attempted = cell.result(timeout=PATIENCE_S)
        here.close()
        kinds = [notice.record.kind for notice in iter(functools.partial(notices.get, 0.0), None)]
        bulk = cell.statistics().lanes["bulk"]
    return {
        # The first round is the warm-up.
        "took": [took[phase][1:] for phase in ("idle", "pressed")],
        "attempted": attempted,
        # What roam itself wrote: of records that were dropped, or kept out.
        "notices": kinds.count("dropped") + kinds.count("event"),
        "bulk": {name: getattr(bulk, name) for name in ("emitted", "delivered", "lost", "resident", "dropped")},
    }


def await_empty_lane(cell: roam.Cell) -> None:
    """Until the host has taken everything."""
    deadline = time.monotonic() + PATIENCE_S
    while cell.statistics().lanes["bulk"].resident:
        if time.monotonic() > deadline:
            raise RuntimeError("the host does not take what the cell has written")
        time.sleep(0.001)


def account(policy: str, rounds: int, count: int = OVERLOAD_COUNT) -> dict[str, Any]:
    """What such a host says at its end."""
    command = [sys.executable, "-m", "benchmarks.overload", policy, str(rounds), str(count)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=PATIENCE_S * 4)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def is_exact(answer: dict[str, Any]) -> bool:
    """Whether every record is accounted for."""
    bulk = answer["bulk"]
    written, dropped = bulk["delivered"] + bulk["lost"] + bulk["resident"], sum(bulk["dropped"].values())
    return bulk["emitted"] == written and answer["attempted"] + answer["notices"] == written + dropped


def overload(rounds: int, scale: float, *, policy: str) -> Measured:  # noqa: ARG001  less would be no overload
    """An emit against a stopped host. What `block` waits is told apart."""
    answer = account(policy, rounds)
    if not is_exact(answer):
        raise RuntimeError(f"records are missing: {answer['attempted']} attempted, {answer['bulk']}")
    is_wait_ns = WAIT_S * 1e9 if policy == "block" else math.inf
    idle, pressed = (
        [statistics.fmean(chunk for chunk in chunks if chunk < is_wait_ns) / loops.CHUNK for chunks in side]
        for side in answer["took"]
    )
    waits = [chunk for chunks in answer["took"][1] for chunk in chunks if chunk >= is_wait_ns]
    pairs: Pairs = list(zip(idle, pressed, strict=True))
    anchor, figure = medians(pairs)
    ratio = median_ratio(pairs)
    missing = answer["bulk"]["lost"] + sum(answer["bulk"]["dropped"].values())
    text = f"{time_ns(figure)}, {missing / (rounds + 1):,.0f} of {OVERLOAD_COUNT:,} not kept, all counted"
    if waits:
        text += f"; the wait of {time_ns(statistics.median(waits))} apart"
    return Measured(anchor=time_ns(anchor), roam=text, ratio=ratio, reached=ratio <= 2)


def main() -> None:
    """Be a host."""
    policy, rounds, count = sys.argv[1:]
    print(json.dumps(host_of_pressed_cell(policy, int(rounds), int(count))))


if __name__ == "__main__":
    main()
