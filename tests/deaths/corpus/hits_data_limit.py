"""A MemoryError under RLIMIT_DATA."""

from __future__ import annotations

import resource

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.RAISED, "memory limit", code=1, raises="MemoryError")


def plant() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (256 << 20, 256 << 20))
    bytearray(1 << 30)  # dies here
