"""What a cell feels when its host is stopped for a second.

The host is a process of its own, `python -m benchmarks.stall pipe|roam COUNT`, so that it can be stopped. It says
`started` when the first event has arrived, and at the end prints one line of JSON.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

import roam

from . import loops
from .pipes import read_events
from .table import Measured, interleave, time_ns

__all__ = ["stall"]

PER_SECOND = 5_000
STOPPED_S = 1.0
PATIENCE_S = 60.0


def host_of_pipe(count: int) -> dict[str, Any]:
    """Read a pipe until the child is done."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    pipe, end_of_child = context.Pipe(duplex=False)
    child = context.Process(target=loops.pace_by_pipe, args=(end_of_child, there, count, PER_SECOND))
    child.start()
    end_of_child.close()
    seen = 0
    for event in read_events(pipe.fileno()):
        if not seen:
            print("started", flush=True)
        if event.message == loops.LAST:
            break
        seen += 1
    took = here.recv()
    child.join()
    return {"took": took, "seen": seen}


def host_of_roam(count: int) -> dict[str, Any]:
    """Subscribe until the cell is done. The ring is as large as it is by default."""
    with (
        roam.TracingHost(config=roam.TracingConfig("info")) as host,
        host.subscribe("info", capacity=count + 1_000) as records,
    ):
        cell = roam.spawn_cell(loops.pace_by_roam, count, PER_SECOND, host=host)
        seen = 0
        for tagged in records:
            if tagged.record.message == loops.LAST:
                break
            if tagged.record.kind == "event":
                if not seen:
                    print("started", flush=True)
                seen += 1
        took = cell.result(timeout=PATIENCE_S)
    return {"took": took, "seen": seen}


def stopped_host(kind: str, count: int, worst_ns: list[float], lost: list[int]) -> float:
    """Start a host, stop it for a second in the middle, and return the 99.9th percentile of an emit, in nanoseconds."""
    command = [sys.executable, "-m", "benchmarks.stall", kind, str(count)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as host:
        try:
            assert host.stdout is not None
            if host.stdout.readline() != "started\n":
                raise RuntimeError(f"the {kind} host did not start")
            time.sleep(count / PER_SECOND / 4)
            os.kill(host.pid, signal.SIGSTOP)
            time.sleep(STOPPED_S)
            os.kill(host.pid, signal.SIGCONT)
            answer = json.loads(host.stdout.read())
        except BaseException:
            host.kill()
            raise
    took = answer["took"]
    worst_ns.append(max(took))
    lost.append(count - answer["seen"])
    return statistics.quantiles(took, n=1000)[998]


def stall(rounds: int, scale: float) -> Measured:
    """The latency of an emit at an even pace, while the host is stopped."""
    count = max(8_000, int(10_000 * scale))
    worst: tuple[list[float], list[float]] = ([], [])
    lost: tuple[list[int], list[int]] = ([], [])
    pairs = interleave(
        rounds,
        functools.partial(stopped_host, "pipe", count, worst[0], lost[0]),
        functools.partial(stopped_host, "roam", count, worst[1], lost[1]),
    )
    figures = [statistics.median(pair[side] for pair in pairs) for side in (0, 1)]
    texts = [
        f"p99.9 {time_ns(figures[side])}, worst {time_ns(max(worst[side]))}, {max(lost[side]):,} lost of {count:,}"
        for side in (0, 1)
    ]
    return Measured(
        anchor=texts[0],
        roam=texts[1],
        ratio=statistics.median(worst[1]) / statistics.median(worst[0]),
        reached=figures[1] < 2e6 and not any(lost[1]),
    )


def main() -> None:
    """Be a host."""
    kind, count = sys.argv[1:]
    print(json.dumps({"pipe": host_of_pipe, "roam": host_of_roam}[kind](int(count))))


if __name__ == "__main__":
    main()
