"""A write to a mapped file for which its tmpfs has no page left."""

from __future__ import annotations

import mmap
import os
import signal

from roam.exit import ExitKind
from tests.deaths.death import Death
from tests.deaths.scenery import no_mount, small_file_system

DEATH = Death(
    ExitKind.SIGNALED,
    "file system full",
    signal=signal.SIGBUS,
    around=small_file_system,
    needs=no_mount,
)


def plant(directory: str) -> None:
    fd = os.open(os.path.join(directory, "file"), os.O_RDWR | os.O_CREAT)
    os.truncate(fd, 1 << 20)
    mapping = mmap.mmap(fd, 1 << 20)
    for at in range(0, 1 << 20, mmap.PAGESIZE):
        mapping[at] = 1  # dies here
