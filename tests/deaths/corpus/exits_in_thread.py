"""sys.exit in a thread, which ends the thread; the target returns."""

from __future__ import annotations

import sys
import threading

from roam.exit import ExitKind
from roam.stage import Stage
from tests.deaths.death import Death

DEATH = Death(ExitKind.RETURNED, "returned", code=0, stage=Stage.EXIT)


def plant() -> None:
    thread = threading.Thread(target=sys.exit, args=(3,))
    thread.start()
    thread.join()
