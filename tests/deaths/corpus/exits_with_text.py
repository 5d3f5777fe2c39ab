"""sys.exit with a text."""

from __future__ import annotations

import sys

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.EXITED, "sys.exit", code=1, raises="SystemExit", stderr="enough\n")


def plant() -> None:
    sys.exit("enough")
