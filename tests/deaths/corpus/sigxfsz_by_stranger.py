"""SIGXFSZ by another process, where no limit is set."""

from __future__ import annotations

import signal

from roam.exit import ExitKind
from tests.deaths.death import Death
from tests.deaths.tools import send_by_stranger

DEATH = Death(ExitKind.SIGNALED, "unknown", signal=signal.SIGXFSZ)


def plant() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the interpreter ignores it
    send_by_stranger("XFSZ")
