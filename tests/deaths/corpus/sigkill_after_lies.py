"""SIGKILL by another process, after everything was printed that other deaths print."""

from __future__ import annotations

import os
import signal

from roam.exit import ExitKind
from tests.deaths.death import Death
from tests.deaths.tools import LIES, send_by_stranger

DEATH = Death(ExitKind.SIGNALED, "unknown", signal=signal.SIGKILL, stderr="free(): invalid pointer\n")


def plant() -> None:
    os.write(2, LIES)
    send_by_stranger("KILL")
