"""What is known after SIGKILL: the records whose emit had returned, and the spans that were open."""

from __future__ import annotations

import functools
import multiprocessing
import statistics
from typing import Any

import roam

from . import loops
from .table import Measured, interleave

__all__ = ["lost", "open_spans"]

PATIENCE_S = 120.0


def lost_by_logging(count: int) -> float:
    """Records that never came out of the queue."""
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    child = context.Process(target=loops.die_after_burst_by_logging, args=(queue, count))
    child.start()
    queue._writer.close()  # noqa: SLF001  so that the end of the child is the end of the queue
    seen = 0
    try:
        while True:
            queue.get(timeout=PATIENCE_S)
            seen += 1
    except (EOFError, OSError):
        pass
    child.join()
    return count - seen


def lost_by_roam(count: int) -> float:
    """Records that did not come to a subscriber. The ring holds the burst, as the target says."""
    segment = roam.SegmentConfig(bulk_pages=max(32, count * 200 // 32_768))
    with roam.TracingHost(config=roam.TracingConfig("info"), segment=segment) as host:
        records = host.subscribe("info", capacity=count + 1_000)
        cell = roam.spawn_cell(loops.die_after_burst_by_roam, count, host=host)
        if cell.join(timeout=PATIENCE_S) is None:
            raise RuntimeError("the cell did not die")
    return count - sum(1 for tagged in records if tagged.record.kind == "event")


def lost(rounds: int, scale: float) -> Measured:
    """A burst of records, then SIGKILL."""
    count = int(20_000 * scale)
    pairs = interleave(rounds, functools.partial(lost_by_logging, count), functools.partial(lost_by_roam, count))
    anchors, figures = zip(*pairs, strict=True)
    return Measured(
        anchor=f"{statistics.median(anchors):,.0f} of {count:,}",
        roam=f"{max(figures):,.0f} of {count:,}",
        ratio=None,
        reached=not any(figures),
    )


def open_spans(rounds: int, scale: float) -> Measured:  # noqa: ARG001  every row is called alike
    """Nested spans, then SIGKILL. `logging` has none to compare with."""
    depth = 20
    expected = [f"level {number}" for number in range(depth, 0, -1)]
    known = []
    for _ in range(rounds):
        with roam.TracingHost() as host:
            cell = roam.spawn_cell(loops.die_in_spans, depth, host=host)
            cell.join(timeout=PATIENCE_S)
            names = {span.name for span in cell.post_mortem.open_spans} if cell.post_mortem is not None else set()
        known.append(len(names & set(expected)))
    return Measured(anchor="has no spans", roam=f"{min(known)} of {depth}", ratio=None, reached=min(known) == depth)
