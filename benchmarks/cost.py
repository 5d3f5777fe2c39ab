"""What one call costs the cell: an event, a span, a call that the filter refuses."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable
from typing import Any

import roam

from . import loops
from .table import Measured, interleave, median_ratio, medians, time_ns

__all__ = ["emit", "filtered", "span"]

PATIENCE_S = 300.0


def logging_emit_ns(count: int) -> float:
    """`log.info` into a queue that the parent reads at the same time."""
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=loops.emit_by_logging, args=(queue, there, count))
    child.start()
    while queue.get(timeout=PATIENCE_S).getMessage() != loops.LAST:
        pass
    figure: float = here.recv()
    child.join()
    queue.close()
    return figure


def logging_debug_ns(count: int) -> float:
    """`log.debug` that is switched off, in a process that roam has not touched."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=loops.debug_by_logging, args=(there, count))
    child.start()
    figure: float = here.recv()
    child.join()
    return figure


def in_a_cell(target: Any, count: int) -> float:
    """What `target(count)` returns from a cell whose host is reading."""
    with roam.TracingHost(config=roam.TracingConfig("info")) as host:
        figure: float = roam.spawn_cell(target, count, host=host, start_method="spawn").result(timeout=PATIENCE_S)
    return figure


def against_queue(target: Any, limit: float, rounds: int, count: int) -> Measured:
    """Compare with `QueueHandler`."""
    pairs = interleave(rounds, functools.partial(logging_emit_ns, count), functools.partial(in_a_cell, target, count))
    anchor, figure = medians(pairs)
    ratio = median_ratio(pairs)
    return Measured(anchor=time_ns(anchor), roam=time_ns(figure), ratio=ratio, reached=ratio <= limit)


def emit(rounds: int, scale: float) -> Measured:
    """An event with three fields."""
    return against_queue(loops.emit_by_roam, 1 / 5, rounds, int(100_000 * scale))


def span(rounds: int, scale: float) -> Measured:
    """A span with two fields, opened and closed."""
    return against_queue(loops.span_by_roam, 1 / 2, rounds, int(50_000 * scale))


def filtered(rounds: int, scale: float, *, loop: Callable[[int], float]) -> Measured:
    """A call below the level."""
    count = int(1_000_000 * scale)
    pairs = interleave(rounds, functools.partial(logging_debug_ns, count), functools.partial(in_a_cell, loop, count))
    anchor, figure = medians(pairs)
    ratio = median_ratio(pairs)
    return Measured(anchor=time_ns(anchor), roam=time_ns(figure), ratio=ratio, reached=ratio <= 1.2)
