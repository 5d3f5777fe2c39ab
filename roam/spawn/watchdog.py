"""Cells that give no sign of life for too long: noticed, looked at, written down, and ended if that was asked for.

Nothing ticks in a cell: the look is at words that it stores anyway, with each record and span, or by
`roam.current_cell().beat()`. One thread looks, `roam-watchdog`, and only while there is a cell to watch. Before it
judges anybody it asks whether it was late itself: after a pause of the host's own every cell's silence counts anew.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL
from typing import TYPE_CHECKING, NamedTuple

from ..tracing.defects import report_defect
from .activity import Activity, ActivityKind
from .ladder import note_stacks

if TYPE_CHECKING:
    from .cell import Cell

__all__ = ["Hang", "WatchedCell", "unwatch", "watch"]

_TICKS = 4
"""How often a cell is looked at in the time that it may be silent."""
_SHORTEST_TICK_S, _LONGEST_TICK_S = 0.01, 1.0
_LATE_S = 0.25
"""A look that comes later than planned by this, and by more than its tick, means that the host was held up."""


class Hang(NamedTuple):
    """A cell was silent for longer than it may be."""

    activity: Activity
    """What it was doing, and for how long it had been silent."""
    noticed_ns: int
    """Wall-clock nanoseconds."""
    dump_path: Path | None
    """The post-mortem that was written of the living cell; None where it was killed, which leaves one of its death, or
    where none could be written."""


@dataclass(slots=True)
class WatchedCell:
    """One watched cell. Not kept alive by being watched."""

    cell: weakref.ref[Cell]
    hang_after_s: float
    is_deadly: bool
    """Whether a hung cell is killed."""
    since_s: float = field(default_factory=time.monotonic)
    """From when on silence counts: making a process can take long."""
    reported_s: float | None = None
    """The time, on the monotonic clock, of the last sign of life before the hang that was told of."""

    @property
    def tick_s(self) -> float:
        """How long to wait between two looks."""
        return min(_LONGEST_TICK_S, max(_SHORTEST_TICK_S, self.hang_after_s / _TICKS))


class _Watchdog:
    """The thread, and whom it watches."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._watches: list[WatchedCell] = []
        self._thread: threading.Thread | None = None

    def add(self, entry: WatchedCell) -> None:
        with self._changed:
            self._watches.append(entry)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="roam-watchdog", daemon=True)
                thread.start()
                self._thread = thread
            self._changed.notify()

    def forget(self) -> None:
        """A cell has ended: without any, the thread ends now and not with its next look."""
        with self._changed:
            self._changed.notify()

    def _run(self) -> None:
        awake_s = looked_s = time.monotonic()
        while watches := self._remaining():
            tick_s = min(entry.tick_s for entry in watches)
            with self._changed:
                self._changed.wait(tick_s)
            for entry in watches:
                # r[impl spawn.hang.host] Since the last look at any cell: a host can be held up anywhere between.
                before_s, looked_s = looked_s, time.monotonic()
                if looked_s - before_s > tick_s + max(_LATE_S, tick_s):
                    awake_s = looked_s
                try:
                    _look(entry, awake_s, looked_s)
                except Exception:
                    # The others are watched all the same.
                    report_defect()

    def _remaining(self) -> list[WatchedCell]:
        """Those whose cell lives; none when the thread is to end."""
        with self._changed:
            self._watches = [entry for entry in self._watches if _lives(entry)]
            if not self._watches:
                self._thread = None
            return self._watches.copy()


def _lives(entry: WatchedCell) -> bool:
    cell = entry.cell()
    return cell is not None and cell.is_alive()


def _look(entry: WatchedCell, awake_s: float, now_s: float) -> None:
    """Judge a cell by the silence before `now_s`: what passes while this looks is not the cell's fault."""
    cell = entry.cell()
    if cell is None or not cell.is_alive():
        return
    silent_s = cell.silent_s
    beat_s = time.monotonic() - silent_s
    is_told = entry.reported_s is not None and beat_s < entry.reported_s + 1e-3
    if is_told or now_s - max(beat_s, awake_s, entry.since_s) < entry.hang_after_s:
        return
    activity = cell.activity()
    if activity.kind in (ActivityKind.ENDED, ActivityKind.TRACED) or cell.silent_s < silent_s:
        # It is looked at by somebody with a debugger, or it has moved meanwhile.
        return
    entry.reported_s = beat_s
    # r[impl spawn.hang]
    cell.interference.note(f"found hung ({activity})")
    note_stacks(cell)
    if not cell.is_alive():
        return  # it has ended meanwhile, and there is a post-mortem of that
    logger = logging.getLogger("roam")
    logger.warning("cell %r gave no sign of life for %.1f s: %s", cell.name, silent_s, activity)
    if entry.is_deadly:
        cell.interference.hang = activity
        cell.hangs += (Hang(activity, time.time_ns(), None),)
        cell.force(SIGKILL)
    else:
        cell.hangs += (Hang(activity, time.time_ns(), cell.report_hang(activity)),)


_watchdog = _Watchdog()


def watch(entry: WatchedCell) -> None:
    """WatchedCell a cell until it has ended. Any thread."""
    _watchdog.add(entry)


def unwatch() -> None:
    """Have the watchdog notice that a cell has ended. Any thread."""
    _watchdog.forget()


def _after_fork_in_child() -> None:
    global _watchdog
    _watchdog = _Watchdog()


os.register_at_fork(after_in_child=_after_fork_in_child)
