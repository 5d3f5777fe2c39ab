"""From the call that starts a process to the first thing that its parent hears of it."""

from __future__ import annotations

import functools
import time
from typing import Any

import multiprocess

import roam

from . import loops
from .table import Measured, Pairs, interleave, median_ratio, medians, time_ns

__all__ = ["start"]

PATIENCE_S = 60.0
REPETITIONS = 4
"""Starts in a row in each round; the server of the fork server is warm before the first is counted."""


def by_multiprocess(context: Any) -> float:
    """Nanoseconds until the first bytes are here, with `multiprocess` as it is."""
    begin = time.perf_counter_ns()
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=loops.say_hello_by_pipe, args=(there,))
    child.start()
    here.recv_bytes()
    took = time.perf_counter_ns() - begin
    child.join()
    return took


def by_roam(method: str, host: Any, records: Any) -> float:
    """Nanoseconds until the first record is here."""
    begin = time.perf_counter_ns()
    cell = roam.spawn_cell(loops.say_hello_by_roam, host=host, start_method=method)
    for tagged in records:
        if tagged.record.message == "hello":
            break
    took = time.perf_counter_ns() - begin
    cell.join(timeout=PATIENCE_S)
    return took


def start(rounds: int, scale: float, *, method: str, limit: float | None) -> Measured:  # noqa: ARG001
    """One start method, against bare `multiprocess`."""
    context = multiprocess.get_context(method)
    with roam.TracingHost(config=roam.TracingConfig("info")) as host, host.subscribe("info") as records:
        anchor, ours = functools.partial(by_multiprocess, context), functools.partial(by_roam, method, host, records)
        interleave(1, anchor, ours)
        pairs: Pairs = interleave(rounds * REPETITIONS, anchor, ours)
    ratio = median_ratio(pairs)
    texts = [time_ns(figure) for figure in medians(pairs)]
    return Measured(anchor=texts[0], roam=texts[1], ratio=ratio, reached=None if limit is None else ratio <= limit)
