"""SIGILL, as an instruction raises it that this processor does not have."""

from __future__ import annotations

import signal

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.SIGNALED, "Illegal instruction", signal=signal.SIGILL)


def plant() -> None:
    signal.raise_signal(signal.SIGILL)  # dies here
