"""A read through a null pointer, 200 calls deep: the stack is not full."""

from __future__ import annotations

import ctypes
import signal

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.SIGNALED, "Segmentation fault", signal=signal.SIGSEGV, innermost="string_at")


def plant(depth: int = 200) -> None:
    if depth:
        plant(depth - 1)
    ctypes.string_at(0)
