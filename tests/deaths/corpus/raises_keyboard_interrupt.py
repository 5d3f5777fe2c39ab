"""SIGINT becomes a KeyboardInterrupt, which leaves the target."""

from __future__ import annotations

import signal

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.RAISED, "exception", code=1, raises="KeyboardInterrupt")


def plant() -> None:
    signal.raise_signal(signal.SIGINT)  # dies here
