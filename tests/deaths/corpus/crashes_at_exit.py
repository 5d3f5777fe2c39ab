"""A read of address 0 in a function of atexit."""

from __future__ import annotations

import atexit
import ctypes
import signal

from roam.exit import ExitKind
from roam.stage import Stage
from tests.deaths.death import Death

DEATH = Death(
    ExitKind.SIGNALED,
    "Segmentation fault",
    signal=signal.SIGSEGV,
    stage=Stage.EXIT,
    innermost="string_at",
)


def plant() -> None:
    atexit.register(crash)


def crash() -> None:
    ctypes.string_at(0)  # dies here
