"""sys.exit(3)."""

from __future__ import annotations

import sys

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.EXITED, "sys.exit", code=3, raises="SystemExit")


def plant() -> None:
    sys.exit(3)
