"""SIGXFSZ with its default action, at a write beyond RLIMIT_FSIZE."""

from __future__ import annotations

import os
import resource
import signal

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.SIGNALED, "file size limit", signal=signal.SIGXFSZ)


def plant() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the interpreter ignores it
    os.write(os.memfd_create("full"), b"x")
