"""SIGXCPU at the soft limit of processor time."""

from __future__ import annotations

import resource
import signal

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.SIGNALED, "processor time limit", signal=signal.SIGXCPU)


def plant() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (1, 60))
    while True:
        pass
