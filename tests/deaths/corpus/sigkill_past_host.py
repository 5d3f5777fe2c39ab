"""SIGKILL from the process of the host, but past the host, which cannot know who it was."""

from __future__ import annotations

import os
import signal
import time

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.SIGNALED, "unknown", signal=signal.SIGKILL, act=lambda cell: os.kill(cell.pid, signal.SIGKILL))


def plant() -> None:
    time.sleep(60)
