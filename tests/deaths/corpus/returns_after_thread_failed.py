"""A thread ends with an exception that nobody catches; the target returns all the same."""

from __future__ import annotations

import threading

from roam.exit import ExitKind
from roam.stage import Stage
from tests.deaths.death import Death

DEATH = Death(ExitKind.RETURNED, "returned", code=0, stage=Stage.EXIT)


def plant() -> None:
    thread = threading.Thread(target=int, args=("no number",))
    thread.start()
    thread.join()
