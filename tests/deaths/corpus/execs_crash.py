"""The process becomes another program, which ends by SIGSEGV."""

from __future__ import annotations

import os
import signal

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.SIGNALED, "exec", signal=signal.SIGSEGV, also=("Segmentation fault", "unknown"))


def plant() -> None:
    os.execv("/bin/sh", ["sh", "-c", "kill -SEGV $$"])
