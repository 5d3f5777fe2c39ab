"""It reads from a pipe into which nobody writes."""

from __future__ import annotations

import os
import signal

from roam.exit import ExitKind
from tests.deaths.death import Death
from tests.deaths.tools import KILLED_WHEN_HUNG

DEATH = Death(
    ExitKind.KILLED_BY_HOST,
    "hung: waits for input or events",
    signal=signal.SIGKILL,
    options=KILLED_WHEN_HUNG,
)


def plant() -> None:
    reader, _ = os.pipe()
    os.read(reader, 1)  # dies here
