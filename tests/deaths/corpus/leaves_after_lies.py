"""os._exit(3), after everything was printed that other deaths print."""

from __future__ import annotations

import os

from roam.exit import ExitKind
from tests.deaths.death import Death
from tests.deaths.tools import LIES

DEATH = Death(ExitKind.EXITED, "os._exit", code=3, stderr="free(): invalid pointer\n")


def plant() -> None:
    os.write(2, LIES)
    os._exit(3)
