"""A read of a mapped page that its file has lost."""

from __future__ import annotations

import signal

from roam.exit import ExitKind
from tests.deaths.death import Death
from tests.deaths.tools import shrunken_file

DEATH = Death(ExitKind.SIGNALED, "Bus error", signal=signal.SIGBUS)


def plant() -> None:
    mapping = shrunken_file()
    mapping[0]  # dies here
