"""The host asks it to stop, it ignores that and SIGTERM, and has a child that does the same."""

from __future__ import annotations

import signal
import time

from roam.exit import ExitKind
from tests.deaths.aftermath import grandchild_is_gone
from tests.deaths.death import Death
from tests.deaths.tools import start_grandchild

DEATH = Death(
    ExitKind.KILLED_BY_HOST,
    "killed by its host",
    signal=signal.SIGKILL,
    act=lambda cell: cell.stop(timeout=0.1, grace=0.1),
    after=grandchild_is_gone,
)


def plant() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    start_grandchild()
    while True:
        time.sleep(60)  # dies here
