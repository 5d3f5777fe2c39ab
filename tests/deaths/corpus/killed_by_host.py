"""SIGKILL by the host: Cell.kill()."""

from __future__ import annotations

import signal
import time

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.KILLED_BY_HOST, "killed by its host", signal=signal.SIGKILL, act=lambda cell: cell.kill())


def plant() -> None:
    time.sleep(60)
