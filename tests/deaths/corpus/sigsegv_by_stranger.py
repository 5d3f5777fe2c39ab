"""SIGSEGV by another process, where nothing is wrong in this one."""

from __future__ import annotations

import signal

from roam.exit import ExitKind
from tests.deaths.death import Death
from tests.deaths.tools import send_by_stranger

DEATH = Death(ExitKind.SIGNALED, "Segmentation fault", signal=signal.SIGSEGV, also=("unknown",), innermost=None)


def plant() -> None:
    send_by_stranger("SEGV")  # dies here
