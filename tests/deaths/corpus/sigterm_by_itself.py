"""SIGTERM, sent to itself."""

from __future__ import annotations

import os
import signal

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.SIGNALED, "unknown", signal=signal.SIGTERM)


def plant() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
