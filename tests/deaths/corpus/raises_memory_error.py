"""A MemoryError without any limit: more was asked for than there can be."""

from __future__ import annotations

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.RAISED, "exception", code=1, also=("out of memory",), raises="MemoryError")


def plant() -> None:
    bytearray(1 << 62)  # dies here
