"""It closes every descriptor at once, then reads address 0."""

from __future__ import annotations

import ctypes
import os
import signal

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.SIGNALED, "Segmentation fault", signal=signal.SIGSEGV, innermost="string_at")


def plant() -> None:
    os.closerange(3, 1 << 16)
    ctypes.string_at(0)  # dies here
