"""It closes descriptor after descriptor, then reads address 0."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.SIGNALED, "Segmentation fault", signal=signal.SIGSEGV, innermost="string_at")


def plant() -> None:
    for fd in range(3, 4096):
        with contextlib.suppress(OSError):
            os.close(fd)
    ctypes.string_at(0)  # dies here
