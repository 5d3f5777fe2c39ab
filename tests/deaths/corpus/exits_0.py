"""sys.exit(0)."""

from __future__ import annotations

import sys

from roam.exit import ExitKind
from roam.stage import Stage
from tests.deaths.death import Death

DEATH = Death(ExitKind.EXITED, "sys.exit", code=0, stage=Stage.EXIT, raises="SystemExit")


def plant() -> None:
    sys.exit(0)
