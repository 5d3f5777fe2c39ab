"""os._exit(255), which a fork server says of what it lost."""

from __future__ import annotations

import os

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.EXITED, "os._exit", code=255)


def plant() -> None:
    os._exit(255)
