"""SIGFPE, as an integer division by 0 in C raises it."""

from __future__ import annotations

import signal

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.SIGNALED, "Floating-point exception", signal=signal.SIGFPE, also=("Floating point exception",))


def plant() -> None:
    signal.raise_signal(signal.SIGFPE)  # dies here
