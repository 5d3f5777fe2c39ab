"""The targets of the cells that die: each writes its records inside open spans, then ends in one of five ways."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

import roam
from roam.exit import ExitKind

__all__ = ["DEATHS", "RECORD_COUNT", "Death", "Mishap", "die"]

RECORD_COUNT = 1_000


class Mishap(Exception):
    """The exception that nobody catches."""


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def read_null() -> None:
    ctypes.string_at(0)


def leave() -> None:
    os._exit(1)


def abort() -> None:
    os.abort()


def fail() -> None:
    raise Mishap("a step went wrong")


@dataclass(frozen=True)
class Death:
    """One way to die, and how the host has to call it."""

    end: Callable[[], None]
    kind: ExitKind
    code: int | None = None
    signal: int | None = None
    crash_function: str | None = None
    """The innermost Python function, where the death leaves stacks."""

    @property
    def line(self) -> int:
        """The line of this file that the end happens in: the first one of the function's body."""
        return self.end.__code__.co_firstlineno + 1


DEATHS = {
    "SIGKILL": Death(kill, ExitKind.SIGNALED, signal=signal.SIGKILL),
    "SIGSEGV": Death(read_null, ExitKind.SIGNALED, signal=signal.SIGSEGV, crash_function="string_at"),
    "os._exit(1)": Death(leave, ExitKind.EXITED, code=1),
    "os.abort()": Death(abort, ExitKind.SIGNALED, signal=signal.SIGABRT, crash_function="abort"),
    "exception": Death(fail, ExitKind.RAISED, code=1),
}


def die(death: str) -> None:
    """Write `RECORD_COUNT` numbered records, every tenth of them a warning and so in another lane, and die."""
    with roam.span("job", death=death), roam.span("step", number=7):
        for number in range(RECORD_COUNT):
            (roam.info if number % 10 else roam.warning)("record", number=number)
        DEATHS[death].end()
