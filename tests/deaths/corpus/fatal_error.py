"""The interpreter gives up: Py_FatalError."""

from __future__ import annotations

import ctypes
import signal

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(
    ExitKind.SIGNALED,
    "Py_FatalError: …",
    signal=signal.SIGABRT,
    stderr="planted",
    # A fork of a process in which `faulthandler.dump_traceback_later` is under way waits for that thread for ever.
    methods=("forkserver", "spawn"),
)


def plant() -> None:
    ctypes.pythonapi.Py_FatalError(b"planted")
