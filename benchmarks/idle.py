"""What a host costs when nothing happens."""

from __future__ import annotations

import statistics
import time

import roam

from . import loops
from .table import Measured

__all__ = ["idle"]

CELLS = 100


def idle(rounds: int, scale: float) -> Measured:
    """CPU time of a host whose hundred cells sleep, in per cent of a core."""
    window_s = 4.0 * max(scale, 0.25)
    figures = []
    with roam.TracingHost() as host:
        cells = [roam.spawn_cell(loops.idle, host=host) for _ in range(CELLS)]
        try:
            time.sleep(1.0)  # what starting them leaves to do is not idling
            for _ in range(rounds):
                wall, cpu = time.perf_counter(), time.process_time()
                time.sleep(window_s)
                figures.append((time.process_time() - cpu) / (time.perf_counter() - wall) * 100)
        finally:
            for cell in cells:
                cell.kill()
            for cell in cells:
                cell.join(timeout=60)
    percent = statistics.median(figures)
    return Measured(anchor="none", roam=f"{percent:.2f} % of a core", ratio=None, reached=percent < 1)
