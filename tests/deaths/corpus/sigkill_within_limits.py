"""SIGKILL by another process, far below the limits that this one has set for itself."""

from __future__ import annotations

import resource
import signal

from roam.exit import ExitKind
from tests.deaths.death import Death
from tests.deaths.tools import send_by_stranger

DEATH = Death(ExitKind.SIGNALED, "unknown", signal=signal.SIGKILL)


def plant() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (60, 120))
    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 40, 1 << 40))
    send_by_stranger("KILL")
