"""System calls that fail on demand: every call that roam makes into `os` and its kin can be told to raise.

A call belongs to a *site*: the module and function of roam that it comes from, directly or through `pathlib` and the
like, and the name of what is called. Calls are counted by site, because those of roam's threads come in any order.
"""

from __future__ import annotations

import _socket
import builtins
import errno
import fcntl
import io
import mmap
import os
import re
import select
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable
from types import BuiltinFunctionType, FrameType, ModuleType, TracebackType
from typing import Any, NamedTuple, Self

__all__ = ["ERRORS", "EVERY", "REMOVERS", "Fault", "Faults", "can_fail"]

ERRORS = ("ENOSPC", "EMFILE", "EIO", "EINTR", "ENOMEM")
"""EINTR comes in place of an answer that Python never gives: its calls go on by themselves after a signal."""

EVERY = 0
"""In place of the number of a call: all calls of the site fail."""

REMOVERS = frozenset({"os.unlink", "os.rmdir", "os.listdir", "os.scandir"})
"""Where these fail, what they were to remove, or to find, stays: nobody else can remove it."""

_CLOSERS = frozenset({"os.close"})
"""The kernel takes the descriptor away, whatever it answers."""

_EXCEPTIONS = tuple(
    re.compile(pattern)
    for pattern in (
        # Close answers with an error only where bytes have still to be written to a file system that is elsewhere.
        # Pipes, sockets, event counters, process descriptors, memory files and what was only read have none.
        r"spawn\.(answer|cell|forkserver|launch|lifeline|parcel)\..* os\.close",
        r"tracing\.(collector|inspection)\..* os\.close",
        # An event counter is never full here, and the only error of one is that it is full, or empty.
        r".* os\.eventfd_(read|write)",
        # To borrow a descriptor as a socket asks the kernel for nothing.
        r"spawn\.forkserver\..* socket\.socket",
        # A child is there until it was waited for, and whoever waits for it gets its status.
        r"spawn\.status\._of_child os\.(waitid|wait4)",
        # The standard library's own, in `subprocess.Popen`: it would lose track of the child.
        r"spawn\.launch\._spawn os\.read",
    )
)
"""Sites that are left alone, because what they call cannot fail there for any reason of the kernel's."""

_INFALLIBLE = frozenset(
    {
        # Plain computation.
        "fspath fsencode fsdecode major minor makedev waitstatus_to_exitcode strerror register_at_fork _exit abort",
        "WIFEXITED WIFSIGNALED WIFSTOPPED WEXITSTATUS WTERMSIG WCOREDUMP _path_normpath _path_splitroot_ex",
        # Answers that the kernel always has.
        "getpid getppid getuid geteuid getgid getegid umask times cpu_count sysconf",
        # Says no, and raises nothing.
        "access isatty",
        # The environment, in this process's own memory.
        "putenv unsetenv",
        # Fails only where the kernel has no randomness at all.
        "urandom getrandom",
    }
)
_NAMES = frozenset(" ".join(_INFALLIBLE).split())

_BETWEEN = frozenset(
    {
        "pathlib",
        "contextlib",
        "genericpath",
        "posixpath",
        "os",
        "socket",
        "subprocess",
        "shutil",
        "roam.shm.descriptors",
    }
)
"""Modules through which roam makes calls: what they call, the code of roam does that called them."""


def _targets() -> list[tuple[ModuleType, str, str]]:
    """Module, attribute and name of everything that can be made to fail."""
    found = [
        (os, name, f"os.{name}")
        for name, value in vars(os).items()
        if isinstance(value, BuiltinFunctionType) and name not in _NAMES and not name.startswith("sched_")
    ]
    found += [(fcntl, name, f"fcntl.{name}") for name in ("fcntl", "flock", "ioctl", "lockf")]
    found += [
        (mmap, "mmap", "mmap.mmap"),
        (select, "epoll", "select.epoll"),
        (builtins, "open", "open"),
        (io, "open", "open"),
    ]
    found += [(_socket, "socketpair", "socket.socketpair"), (socket, "socket", "socket.socket")]
    return found


def can_fail(site: str) -> bool:
    """Whether a site is not among the exceptions."""
    return not any(pattern.fullmatch(site) for pattern in _EXCEPTIONS)


class Fault(NamedTuple):
    """One thing to go wrong."""

    site: str
    number: int
    """The how manyth call of the site, from 1 on, or `EVERY`."""
    error: str
    """Name of an errno."""

    @property
    def call(self) -> str:
        """What is called."""
        return self.site.rpartition(" ")[2]

    def __str__(self) -> str:
        which = "every call" if self.number == EVERY else f"call {self.number}"
        return f"{self.error} from {which} of {self.site}"


class Faults:
    """While it lasts, calls of roam in this process are counted by site, and the planned one fails."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.hits = 0
        """How often the fault struck."""
        self._fault = fault
        self._is_on = False
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._real: list[tuple[ModuleType, str, Any]] = []

    def __enter__(self) -> Self:
        for module, attribute, name in _targets():
            real = getattr(module, attribute)
            self._real.append((module, attribute, real))
            setattr(module, attribute, self._counted(real, name))
        self._is_on = True
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        for module, attribute, real in self._real:
            setattr(module, attribute, real)
        # Modules that were imported meanwhile may hold on to what they found.
        self._is_on = False

    def _counted(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            caller = _caller_in_roam(sys._getframe(1)) if self._is_on else None
            if caller is not None and self._strikes(f"{caller} {name}"):
                if name in _CLOSERS:
                    real(*args, **kwargs)
                assert self._fault is not None
                number = getattr(errno, self._fault.error)
                raise OSError(number, os.strerror(number))
            return real(*args, **kwargs)

        return call

    def _strikes(self, site: str) -> bool:
        """Count a call. True if it is to fail."""
        if os.getpid() != self._pid:
            return False
        with self._lock:
            self.counts[site] += 1
            fault = self._fault
            if fault is None or fault.site != site or fault.number not in (EVERY, self.counts[site]):
                return False
            self.hits += 1
            return True


def _caller_in_roam(frame: FrameType | None) -> str | None:
    """Module and function of roam that makes a call, None for somebody else's."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("roam.") and module not in _BETWEEN:
            return f"{module[len('roam.') :]}.{frame.f_code.co_qualname}"
        if module not in _BETWEEN and module.partition(".")[0] not in _BETWEEN:
            return None
        frame = frame.f_back
    return None
