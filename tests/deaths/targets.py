"""The targets of the cells that die: each writes its records inside open spans, then ends in one of many ways.

Every way is named in `DEATHS`, with what a host has to make of it. The module is imported by the cells, too.
"""

from __future__ import annotations

import atexit
import ctypes
import mmap
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import roam
from roam.exit import ExitKind

__all__ = ["DEATHS", "LAST_WORDS", "RECORD_COUNT", "Death", "Mishap", "die"]

RECORD_COUNT = 1_000
LAST_WORDS = "last words"
"""The message of the record that is written last before the end; it says when, on the monotonic clock."""
SMALL_STACK = (128 << 10, 128 << 10)


class Mishap(Exception):
    """The exception that nobody catches."""


# What a cell does to itself. The first line of each body is the one that a stack or a traceback has to name.


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_through_another() -> None:
    subprocess.run(["/bin/sh", "-c", f"kill -KILL {os.getpid()}"], check=True)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def expire() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a forked cell has its parent's handler
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    time.sleep(60)


def read_null() -> None:
    ctypes.string_at(0)


def read_beyond_a_file() -> None:
    shrunken_file()[0]


def shrunken_file() -> mmap.mmap:
    """A mapped page that its file has lost."""
    fd = os.memfd_create("shrunken")
    os.truncate(fd, mmap.PAGESIZE)
    mapping = mmap.mmap(fd, mmap.PAGESIZE)
    os.truncate(fd, 0)
    return mapping


def divide_by_zero() -> None:
    signal.raise_signal(signal.SIGFPE)


def run_no_instruction() -> None:
    signal.raise_signal(signal.SIGILL)


def overflow_the_stack(*_: object) -> None:
    next(map(overflow_the_stack, [resource.setrlimit(resource.RLIMIT_STACK, SMALL_STACK)]))


def write_too_much() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the interpreter ignores it
    os.write(os.memfd_create("full"), b"x")


def abort() -> None:
    os.abort()


def leave(code: int) -> None:
    os._exit(code)


def leave_at_exit() -> None:
    atexit.register(os._exit, 7)


def exit_with(code: object) -> None:
    sys.exit(code)  # type: ignore[arg-type]


def finish() -> str:
    return "done"


def return_what_cannot_be_sent() -> object:
    return (number for number in ())


def fail() -> None:
    raise Mishap("a step went wrong")


def fail_twice() -> None:
    raise ExceptionGroup("two steps went wrong", [Mishap("one"), ValueError("other")])


def recurse() -> None:
    recurse()


def want_too_much() -> None:
    bytearray(1 << 62)


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def wait() -> None:
    while not roam.current_cell().stopping:
        time.sleep(0.002)


@dataclass(frozen=True)
class Death:
    """One way to die, and how the host has to call it."""

    end: Callable[[], object]
    kind: ExitKind
    code: int | None = None
    signal: int | None = None
    crash_function: str | None = None
    """The innermost Python function, where the death leaves stacks."""
    unwound_by: str | None = None
    """The exception that leaves the spans before the process ends, `""` where they end in peace; None where they stay
    open."""
    act: Callable[[roam.Cell], object] | None = None
    """What the host does to a cell that waits for it."""

    @property
    def leaves_dump(self) -> bool:
        """False for a normal end: there the handle alone has to tell."""
        return not (self.kind in (ExitKind.RETURNED, ExitKind.STOPPED) or self.code == 0)

    @property
    def function(self) -> str:
        """The function that the end happens in."""
        return self._code.co_name

    @property
    def line(self) -> int:
        """The line of this file that the end happens in: the first one of the function's body."""
        return self._code.co_firstlineno + 1

    @property
    def _code(self) -> Any:
        return getattr(self.end, "func", self.end).__code__


def _signaled(end: Callable[[], object], number: int, crash_function: str | None = None) -> Death:
    return Death(end, ExitKind.SIGNALED, signal=number, crash_function=crash_function)


def _raised(end: Callable[[], object], exception: str) -> Death:
    return Death(end, ExitKind.RAISED, code=1, unwound_by=exception)


def _exited(code: object, expected: int) -> Death:
    return Death(partial(exit_with, code), ExitKind.EXITED, code=expected, unwound_by="SystemExit")


def _kill_from_here(cell: roam.Cell) -> None:
    """From the host's process, but past the host, which cannot know who it was."""
    os.kill(cell.pid, signal.SIGKILL)


DEATHS = {
    "SIGKILL": _signaled(kill, signal.SIGKILL),
    "SIGKILL by child": _signaled(kill_through_another, signal.SIGKILL),
    "SIGKILL by program": Death(wait, ExitKind.SIGNALED, signal=signal.SIGKILL, act=_kill_from_here),
    "SIGTERM": _signaled(terminate, signal.SIGTERM),
    "SIGALRM": _signaled(expire, signal.SIGALRM),
    "SIGXFSZ": _signaled(write_too_much, signal.SIGXFSZ),
    "SIGSEGV": _signaled(read_null, signal.SIGSEGV, "string_at"),
    "SIGBUS": _signaled(read_beyond_a_file, signal.SIGBUS, "read_beyond_a_file"),
    "SIGFPE": _signaled(divide_by_zero, signal.SIGFPE, "divide_by_zero"),
    "SIGILL": _signaled(run_no_instruction, signal.SIGILL, "run_no_instruction"),
    "C stack": _signaled(overflow_the_stack, signal.SIGSEGV, "overflow_the_stack"),
    "os.abort()": _signaled(abort, signal.SIGABRT, "abort"),
    "os._exit(0)": Death(partial(leave, 0), ExitKind.EXITED, code=0),
    "os._exit(1)": Death(partial(leave, 1), ExitKind.EXITED, code=1),
    "os._exit(255)": Death(partial(leave, 255), ExitKind.EXITED, code=255),
    "atexit": Death(leave_at_exit, ExitKind.EXITED, code=7, unwound_by=""),
    "sys.exit(0)": _exited(0, 0),
    "sys.exit(3)": _exited(3, 3),
    "sys.exit(text)": _exited("enough", 1),
    "exception": _raised(fail, "tests.deaths.targets.Mishap"),
    "group": _raised(fail_twice, "ExceptionGroup"),
    "recursion": _raised(recurse, "RecursionError"),
    "memory": _raised(want_too_much, "MemoryError"),
    "SIGINT": _raised(interrupt, "KeyboardInterrupt"),
    "unsendable": Death(return_what_cannot_be_sent, ExitKind.RAISED, code=1, unwound_by=""),
    "return": Death(finish, ExitKind.RETURNED, code=0, unwound_by=""),
    "stop()": Death(wait, ExitKind.STOPPED, code=0, unwound_by="", act=lambda cell: cell.stop()),
    "terminate()": Death(wait, ExitKind.KILLED_BY_HOST, signal=signal.SIGTERM, act=lambda cell: cell.terminate()),
    "kill()": Death(wait, ExitKind.KILLED_BY_HOST, signal=signal.SIGKILL, act=lambda cell: cell.kill()),
}


def die(death: str) -> object:
    """Write `RECORD_COUNT` numbered records, every tenth of them a warning and so in another lane, and die."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # writing one takes longer than all the rest
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and their cells, ignore it
    with roam.span("job", death=death), roam.span("step", number=7):
        for number in range(RECORD_COUNT):
            (roam.info if number % 10 else roam.warning)("record", number=number)
        roam.info(LAST_WORDS, monotonic_ns=time.monotonic_ns())
        return DEATHS[death].end()
