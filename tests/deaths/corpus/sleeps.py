"""It sleeps, and gives no sign of life."""

from __future__ import annotations

import signal
import time

from roam.exit import ExitKind
from tests.deaths.death import Death
from tests.deaths.tools import KILLED_WHEN_HUNG

DEATH = Death(ExitKind.KILLED_BY_HOST, "hung: sleeps", signal=signal.SIGKILL, options=KILLED_WHEN_HUNG)


def plant() -> None:
    time.sleep(60)  # dies here
