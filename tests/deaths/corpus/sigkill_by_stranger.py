"""SIGKILL by another process."""

from __future__ import annotations

import signal

from roam.exit import ExitKind
from tests.deaths.death import Death
from tests.deaths.tools import send_by_stranger

DEATH = Death(ExitKind.SIGNALED, "unknown", signal=signal.SIGKILL)


def plant() -> None:
    send_by_stranger("KILL")
