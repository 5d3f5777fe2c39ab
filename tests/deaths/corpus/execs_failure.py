"""The process becomes another program, which fails."""

from __future__ import annotations

import os

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.EXITED, "exec", code=1)


def plant() -> None:
    os.execv("/bin/false", ["false"])
