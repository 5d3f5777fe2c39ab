"""It becomes nobody, then reads address 0."""

from __future__ import annotations

import ctypes
import os
import signal

from roam.exit import ExitKind
from tests.deaths.death import Death
from tests.deaths.scenery import no_root

DEATH = Death(ExitKind.SIGNALED, "Segmentation fault", signal=signal.SIGSEGV, innermost="string_at", needs=no_root)


def plant() -> None:
    os.setgid(65534)
    os.setuid(65534)
    ctypes.string_at(0)  # dies here
