"""SIGHUP by another process."""

from __future__ import annotations

import signal

from roam.exit import ExitKind
from tests.deaths.death import Death
from tests.deaths.tools import send_by_stranger

DEATH = Death(ExitKind.SIGNALED, "unknown", signal=signal.SIGHUP)


def plant() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored
    send_by_stranger("HUP")
