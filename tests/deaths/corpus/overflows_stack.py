"""Recursion through C in the main thread, until its stack is full."""

from __future__ import annotations

import resource
import signal

from roam.exit import ExitKind
from tests.deaths.death import Death
from tests.deaths.tools import SMALL_STACK_BYTES

DEATH = Death(ExitKind.SIGNALED, "stack overflow", signal=signal.SIGSEGV, innermost="fall")


def plant() -> None:
    resource.setrlimit(resource.RLIMIT_STACK, (SMALL_STACK_BYTES, SMALL_STACK_BYTES))
    fall()


def fall(*_: object) -> None:
    next(map(fall, [None]))  # dies here
