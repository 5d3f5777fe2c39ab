"""Another process kills the fork server, then the cell: nobody may be left to say how it ended."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import psutil

from roam.exit import ExitKind
from tests.deaths.death import Death
from tests.deaths.scenery import replaced_fork_server


def kill_both(cell: Any) -> None:
    os.kill(psutil.Process(cell.pid).ppid(), signal.SIGKILL)
    os.kill(cell.pid, signal.SIGKILL)


DEATH = Death(
    ExitKind.SIGNALED,
    "unknown",
    signal=signal.SIGKILL,
    may_be_lost=True,
    act=kill_both,
    around=replaced_fork_server,
    methods=("forkserver",),
)


def plant() -> None:
    time.sleep(60)
