"""os.abort()."""

from __future__ import annotations

import os
import signal

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.SIGNALED, "Aborted", signal=signal.SIGABRT)


def plant() -> None:
    os.abort()  # dies here
