"""`SIGABRT` by another process, after a child of the cell printed how it had ended itself."""

from __future__ import annotations

import os
import signal
import time

from roam.exit import ExitKind
from tests.deaths.death import Death

LIES = b"""Fatal Python error: it was said by a child
terminate called after throwing an instance of 'std::runtime_error'
  what():  it was said by a child
free(): invalid pointer
"""


def abort_it(cell: object) -> None:
    os.kill(cell.pid, signal.SIGABRT)  # type: ignore[attr-defined]


DEATH = Death(ExitKind.SIGNALED, "Aborted", signal=signal.SIGABRT, act=abort_it)


def plant() -> None:
    os.write(2, LIES + b"an ordinary line\n" * 100)
    time.sleep(60)
