"""sys.exit(256), of which the kernel would keep the 0."""

from __future__ import annotations

import sys

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.EXITED, "sys.exit", code=1, raises="SystemExit")


def plant() -> None:
    sys.exit(256)
