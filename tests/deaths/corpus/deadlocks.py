"""It waits for a lock that nobody will release."""

from __future__ import annotations

import signal
import threading

from roam.exit import ExitKind
from tests.deaths.death import Death
from tests.deaths.tools import KILLED_WHEN_HUNG

DEATH = Death(ExitKind.KILLED_BY_HOST, "hung: waits for a lock", signal=signal.SIGKILL, options=KILLED_WHEN_HUNG)


def plant() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()  # dies here
