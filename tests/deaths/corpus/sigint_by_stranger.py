"""SIGINT by another process, with the default action."""

from __future__ import annotations

import signal

from roam.exit import ExitKind
from tests.deaths.death import Death
from tests.deaths.tools import send_by_stranger

DEATH = Death(ExitKind.SIGNALED, "unknown", signal=signal.SIGINT)


def plant() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    send_by_stranger("INT")
