"""The process becomes another program, which ends well."""

from __future__ import annotations

import os

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.EXITED, "exec", code=0)


def plant() -> None:
    os.execv("/bin/sleep", ["sleep", "0"])
