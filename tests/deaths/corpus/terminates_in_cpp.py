"""C++ terminates over an exception that nobody catches."""

from __future__ import annotations

import os
import signal

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(
    ExitKind.SIGNALED, "C++ terminate: …", signal=signal.SIGABRT, stderr="std::runtime_error'\n  what():  boom\n"
)


def plant() -> None:
    os.write(2, b"terminate called after throwing an instance of 'std::runtime_error'\n  what():  boom\n")
    os.abort()  # dies here
