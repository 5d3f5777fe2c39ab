"""SIGKILL by another process, after the kernel has killed a third one for its memory."""

from __future__ import annotations

import signal
import subprocess

from roam.exit import ExitKind
from tests.deaths.death import Death
from tests.deaths.scenery import memory_group, no_memory_group
from tests.deaths.tools import send_by_stranger

DEATH = Death(ExitKind.SIGNALED, "unknown", signal=signal.SIGKILL, around=memory_group, needs=no_memory_group)


def plant(directory: str) -> None:
    script = f"echo $$ > {directory}/cgroup.procs; head -c 100M /dev/zero | tail"  # which keeps a line until it ends
    subprocess.run(["/bin/sh", "-c", script], stdout=subprocess.DEVNULL, check=False)
    send_by_stranger("KILL")
