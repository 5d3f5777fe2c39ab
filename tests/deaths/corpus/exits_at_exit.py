"""sys.exit(7) in a function of atexit, which ignores it."""

from __future__ import annotations

import atexit
import sys

from roam.exit import ExitKind
from roam.stage import Stage
from tests.deaths.death import Death

DEATH = Death(ExitKind.RETURNED, "returned", code=0, stage=Stage.EXIT)


def plant() -> None:
    atexit.register(sys.exit, 7)
