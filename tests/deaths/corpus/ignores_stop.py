"""The host asks it to stop, it does not listen, and SIGTERM ends it."""

from __future__ import annotations

import signal
import time

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(
    ExitKind.KILLED_BY_HOST,
    "killed by its host",
    signal=signal.SIGTERM,
    act=lambda cell: cell.stop(timeout=0.1, grace=5.0),
)


def plant() -> None:
    time.sleep(60)  # dies here
