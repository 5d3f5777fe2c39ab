"""SIGTERM by the host: Cell.terminate()."""

from __future__ import annotations

import signal
import time

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.KILLED_BY_HOST, "killed by its host", signal=signal.SIGTERM, act=lambda cell: cell.terminate())


def plant() -> None:
    time.sleep(60)
