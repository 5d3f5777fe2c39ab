"""Ending a cell: ask, take its stacks, SIGTERM, take them again, SIGKILL, and then whoever it has started.

Stacks come before SIGTERM, whose default action ends a process at once. Each step is noted with its time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from signal import SIGKILL, SIGTERM
from typing import TYPE_CHECKING

from ..errors import StacksUnavailable
from ..exit import CellExit
from .activity import Activity

if TYPE_CHECKING:
    from .cell import Cell

__all__ = ["Interference", "descend", "note_stacks"]

_MOST_STEPS = 100
_STACKS_S = 0.5
"""A busy machine may take so long to let the cell write them."""


@dataclass(slots=True)
class Interference:
    """What a host itself did to a cell."""

    started_ns: int = field(default_factory=time.time_ns)
    stop_requested: bool = False
    is_forced: bool = False
    """Whether what the cell has started is ended with it."""
    hang: Activity | None = None
    """What the cell was doing when it was found hung and killed for it."""
    signals: list[int] = field(default_factory=list)
    unanswered: set[int] = field(default_factory=set)
    """Signals that it was to answer with its stacks, and did not."""
    steps: list[str] = field(default_factory=list)
    """All that it did, as text, each with the time since the start in seconds."""

    def note(self, step: str) -> None:
        """Add a step of this moment, unless there are very many."""
        if len(self.steps) >= _MOST_STEPS:
            return
        elapsed_s = (time.time_ns() - self.started_ns) / 1e9
        self.steps.append(f"{step} after {elapsed_s:.3f} s")


def descend(cell: Cell, timeout_s: float, grace_s: float) -> CellExit:
    """Every step until the cell has ended; see `Cell.stop`."""
    # r[impl spawn.stop]
    cell.request_stop()
    ended = cell.join(timeout_s)
    if ended is None:
        note_stacks(cell)
        cell.force(SIGTERM)
        ended = cell.join(grace_s)
    if ended is None:
        note_stacks(cell)
        cell.force(SIGKILL)
        ended = cell.join()
    assert ended is not None
    return ended


def note_stacks(cell: Cell) -> None:
    """Have the stacks in the fault file, or a step that says why they are not."""
    # r[impl spawn.stop.stacks]
    try:
        cell.dump_stacks(_STACKS_S)
    except StacksUnavailable as refusal:
        cell.interference.note(f"no stacks ({refusal.why})")
    else:
        cell.interference.note("stacks taken")
