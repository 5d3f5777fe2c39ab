"""A read of address 0 in C."""

from __future__ import annotations

import ctypes
import signal

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.SIGNALED, "Segmentation fault", signal=signal.SIGSEGV, innermost="string_at")


def plant() -> None:
    ctypes.string_at(0)  # dies here
