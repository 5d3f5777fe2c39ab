"""Another process has stopped it with SIGSTOP."""

from __future__ import annotations

import signal
import time

from roam.exit import ExitKind
from tests.deaths.death import Death
from tests.deaths.tools import KILLED_WHEN_HUNG, send_by_stranger

DEATH = Death(ExitKind.KILLED_BY_HOST, "hung: stopped", signal=signal.SIGKILL, options=KILLED_WHEN_HUNG)


def plant() -> None:
    send_by_stranger("STOP")
    time.sleep(60)
