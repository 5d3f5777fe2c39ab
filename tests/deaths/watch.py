"""When a cell died and when its death was concluded, by a witness that does nothing else."""

from __future__ import annotations

import os
import select
import threading
import time

import roam

__all__ = ["Watch"]

_PATIENCE_MS = 60_000


class Watch:
    """Waits in a thread of its own: the kernel says when the process is gone, `Cell.sentinel` when its dump is written."""

    def __init__(self, cell: roam.Cell) -> None:
        self._died_ns: int | None = None
        self._concluded_ns: int | None = None
        self._sentinel = cell.sentinel
        try:
            self._pidfd = os.pidfd_open(cell.pid)
        except ProcessLookupError:
            self._pidfd = -1
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        if self._pidfd >= 0:
            self._died_ns = _wait(self._pidfd)
            os.close(self._pidfd)
        self._concluded_ns = _wait(self._sentinel)

    def death_to_dump_ms(self) -> float | None:
        """None for a cell that was gone before anybody could watch it."""
        self._thread.join()
        if self._died_ns is None or self._concluded_ns is None:
            return None
        return (self._concluded_ns - self._died_ns) / 1e6


def _wait(fd: int) -> int | None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return time.monotonic_ns() if poll.poll(_PATIENCE_MS) else None
