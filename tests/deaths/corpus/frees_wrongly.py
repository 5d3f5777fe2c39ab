"""The C library aborts: what is freed was never allocated."""

from __future__ import annotations

import ctypes
import signal

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.SIGNALED, "glibc abort: …", signal=signal.SIGABRT, stderr="free(): invalid pointer\n")


def plant() -> None:
    block = ctypes.create_string_buffer(4096)
    ctypes.CDLL(None).free(ctypes.c_void_p(ctypes.addressof(block) + 8))  # dies here
