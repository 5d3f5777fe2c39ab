"""How fast events arrive at one reader, decoded, and what that costs the host."""

from __future__ import annotations

import functools
import multiprocessing
import statistics
import time

import roam

from . import loops
from .pipes import read_events
from .table import Measured, interleave, median_ratio, medians, per_second, time_ns

__all__ = ["delivery"]

PATIENCE_S = 300.0


def by_pipe(count: int, costs_ns: list[float]) -> float:
    """Events in a second through a pipe; appends the host's CPU time for each to `costs_ns`."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    pipe, end_of_child = context.Pipe(duplex=False)
    child = context.Process(target=loops.emit_for_delivery_by_pipe, args=(end_of_child, there, count))
    child.start()
    end_of_child.close()
    start = here.recv()
    cpu = time.process_time_ns()
    seen = sum(1 for event in read_events(pipe.fileno()) if event.fields["user_id"] >= 0 and event.message)
    end = time.monotonic_ns()
    costs_ns.append((time.process_time_ns() - cpu) / count)
    pipe.close()
    child.join()
    if seen != count + 1:
        raise RuntimeError(f"{seen} of {count + 1} events came through the pipe")
    return count / (end - start) * 1e9


def by_roam(count: int, costs_ns: list[float]) -> float:
    """Events in a second at a subscriber. The ring holds them all, so that the slower side is what is measured."""
    segment = roam.SegmentConfig(bulk_pages=max(32, count * 200 // 32_768))
    with (
        roam.TracingHost(config=roam.TracingConfig("info"), segment=segment) as host,
        host.subscribe("info", capacity=count + 1_000) as records,
    ):
        cell = roam.spawn_cell(loops.emit_for_delivery_by_roam, count, host=host, start_method="spawn")
        seen, cpu = 0, time.process_time_ns()
        for tagged in records:
            record = tagged.record
            if record.message == loops.LAST:
                break
            if record.kind == "event" and record.fields["user_id"] >= 0:
                seen += 1
        end = time.monotonic_ns()
        costs_ns.append((time.process_time_ns() - cpu) / count)
        start = cell.result(timeout=PATIENCE_S)
    if seen != count:
        raise RuntimeError(f"{seen} of {count} events came to the subscriber")
    return count / (end - start) * 1e9


def delivery(rounds: int, scale: float) -> Measured:
    """Events in a second, against `os.write` and msgspec."""
    count = int(100_000 * scale)
    pipe_costs: list[float] = []
    roam_costs: list[float] = []
    pairs = interleave(
        rounds, functools.partial(by_pipe, count, pipe_costs), functools.partial(by_roam, count, roam_costs)
    )
    anchor, figure = medians(pairs)
    ratio = median_ratio(pairs)
    return Measured(
        anchor=f"{per_second(anchor)}, {time_ns(statistics.median(pipe_costs))} host CPU each",
        roam=f"{per_second(figure)}, {time_ns(statistics.median(roam_costs))} host CPU each",
        ratio=ratio,
        reached=ratio >= 0.5,
    )
