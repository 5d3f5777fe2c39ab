"""Counting the system calls of another process, by the means of `strace` and without it.

The tracer is this process: `ptrace` needs no tool, no privilege for a descendant, and does not slow the traced process
between two calls. Where it is not allowed at all, `count_system_calls` says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections import Counter
from collections.abc import Callable

__all__ = ["NotAllowed", "count_system_calls"]

SYSCALL, DETACH, SEIZE, INTERRUPT, GET_SYSCALL_INFO = 24, 17, 0x4206, 0x4207, 0x420E
TRACE_SYSCALL_GOOD = 1
SYSCALL_STOP = signal.SIGTRAP | 0x80
ENTRY = 1
WALL = 0x40000000


class NotAllowed(Exception):
    """The kernel, or who configured it, refuses `ptrace`."""


class SyscallInfo(ctypes.Structure):
    """The kernel's `ptrace_syscall_info`, up to the number of the call."""

    _fields_ = (
        ("op", ctypes.c_uint8),
        ("padding", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("instruction", ctypes.c_uint64),
        ("stack", ctypes.c_uint64),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
    )


def ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    library.ptrace.restype = ctypes.c_long
    library.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    if library.ptrace(request, pid, address, data) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def count_system_calls(pid: int, begin: Callable[[], object], is_over: Callable[[], bool]) -> Counter[int]:
    """The calls that the first thread of `pid` makes, by their numbers, after `begin()` and until `is_over()`.

    `is_over` is asked after each call. One thread of this process has to do it all. Raises `NotAllowed`.
    """
    try:
        ptrace(SEIZE, pid, 0, TRACE_SYSCALL_GOOD)
    except PermissionError as error:
        raise NotAllowed(str(error)) from error
    numbers: Counter[int] = Counter()
    try:
        ptrace(INTERRUPT, pid)
        wait_for_stop(pid)
        begin()
        forward = 0
        while True:
            ptrace(SYSCALL, pid, 0, forward)
            stopped_by = wait_for_stop(pid)
            forward = 0
            if stopped_by != SYSCALL_STOP:
                forward = stopped_by if stopped_by != signal.SIGTRAP else 0
                continue
            info = SyscallInfo()
            ptrace(GET_SYSCALL_INFO, pid, ctypes.sizeof(info), ctypes.addressof(info))
            if info.op == ENTRY:
                numbers[info.number] += 1
            elif is_over():
                return numbers
    finally:
        with contextlib.suppress(OSError):
            ptrace(DETACH, pid)


def wait_for_stop(pid: int) -> int:
    """Wait until the traced thread has stopped; returns the signal that stopped it."""
    _, status = os.waitpid(pid, WALL)
    assert os.WIFSTOPPED(status), f"process {pid} ended while it was traced: {status:#x}"
    return os.WSTOPSIG(status)
