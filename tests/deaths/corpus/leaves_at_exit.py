"""os._exit(7) in a function of atexit."""

from __future__ import annotations

import atexit
import os

from roam.exit import ExitKind
from roam.stage import Stage
from tests.deaths.death import Death

DEATH = Death(ExitKind.EXITED, "os._exit", code=7, stage=Stage.EXIT)


def plant() -> None:
    atexit.register(os._exit, 7)
