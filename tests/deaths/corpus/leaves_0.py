"""os._exit(0) in the target."""

from __future__ import annotations

import os

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.EXITED, "os._exit", code=0)


def plant() -> None:
    os._exit(0)
