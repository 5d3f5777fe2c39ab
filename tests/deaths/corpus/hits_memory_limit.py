"""A MemoryError under RLIMIT_AS."""

from __future__ import annotations

import resource

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.RAISED, "memory limit", code=1, raises="MemoryError")


def plant() -> None:
    with open("/proc/self/statm") as file:
        size_bytes = int(file.read().split()[0]) * resource.getpagesize()
    limit_bytes = size_bytes + (64 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    bytearray(1 << 30)  # dies here
