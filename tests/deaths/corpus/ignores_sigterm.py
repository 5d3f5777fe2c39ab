"""The host asks it to stop, it does not listen, and ignores SIGTERM, too."""

from __future__ import annotations

import signal
import time

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(
    ExitKind.KILLED_BY_HOST,
    "killed by its host",
    signal=signal.SIGKILL,
    act=lambda cell: cell.stop(timeout=0.1, grace=0.1),
)


def plant() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(60)  # dies here
