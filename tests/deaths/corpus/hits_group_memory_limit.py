"""The kernel kills it for the memory that its control group does not have."""

from __future__ import annotations

import os
import resource
import signal

from roam.exit import ExitKind
from tests.deaths.death import Death
from tests.deaths.scenery import memory_group, no_memory_group

DEATH = Death(ExitKind.SIGNALED, "out of memory", signal=signal.SIGKILL, around=memory_group, needs=no_memory_group)


def plant(directory: str) -> None:
    with open(f"{directory}/cgroup.procs", "w") as file:
        file.write(str(os.getpid()))
    bytearray(1 << 30)[:: resource.getpagesize()] = b"x" * ((1 << 30) // resource.getpagesize())
