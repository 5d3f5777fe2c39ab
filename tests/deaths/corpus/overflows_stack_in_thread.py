"""Recursion through C in another thread, until its stack is full: nothing is left to write the stacks with."""

from __future__ import annotations

import signal
import threading

from roam.exit import ExitKind
from tests.deaths.death import Death
from tests.deaths.tools import SMALL_STACK_BYTES

DEATH = Death(ExitKind.SIGNALED, "Segmentation fault", signal=signal.SIGSEGV, innermost=None)


def plant() -> None:
    threading.stack_size(SMALL_STACK_BYTES)
    thread = threading.Thread(target=fall)
    thread.start()
    thread.join()


def fall(*_: object) -> None:
    next(map(fall, [None]))
