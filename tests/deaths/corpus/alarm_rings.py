"""SIGALRM of its own timer, with the default action."""

from __future__ import annotations

import signal
import time

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.SIGNALED, "unknown", signal=signal.SIGALRM)


def plant() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a forked cell has its parent's handler
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    time.sleep(60)
